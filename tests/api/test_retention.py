"""Pruning and erasing on the real server and tables: batches beside the intake, and a person looked for everywhere."""

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.event import listen

from api.pruning import BATCH, erase, prune
from api.settings import read_settings
from learner import lease, runs
from learner.first_version import build_first_version
from router.registry import publish
from telemetry.dead_letters import quarantine
from telemetry.feedback import store_feedback
from telemetry.golden import golden, list_golden, promoted, put_golden
from telemetry.ids import keyed_hash, new_id
from telemetry.inferences import store_inferences
from telemetry.records import DecisionRecord, Feedback, Inference, Payload, SegmentRecord
from telemetry.retention import count_prunable, scrub_reports
from telemetry.tables import metadata
from tests.api.conftest import running

KEY = bytes(32)
NOW = datetime.now(UTC)


def event(query, *, user=None, segments=(), **more):
    return Inference(
        inference_id=new_id(),
        end_user=keyed_hash(user, key=KEY) if user else None,
        decision=DecisionRecord(route="billing", segments=segments),
        payload=Payload(query=query, answer=f"the answer to {query}", embedding=b"\1\2" * 4, encoder="e"),
        payload_sha256=b"x",
        **more,
    )


def vote(target, *, user=None, comment=None):
    submitter = keyed_hash(user, key=KEY) if user else None
    target_value = target if isinstance(target, str) else str(target.inference_id)
    kind = "response_id" if isinstance(target, str) else "inference_id"
    names = {"target_kind": kind, "target_value": target_value, "payload_sha256": b"x"}
    return Feedback(feedback_id=new_id(), value="up", submitter=submitter, comment=comment, **names)


def store(engine, items=(), votes=(), *, days=0):
    """Store events, received so many days ago."""
    with engine.begin() as conn:
        store_inferences(conn, items)
        store_feedback(conn, votes)
        old = {"at": NOW - timedelta(days=days), "ids": [i.inference_id for i in items]}
        conn.execute(text("update inference set received_at = :at where inference_id = any(:ids)"), old)
        feedback = {"at": old["at"], "ids": [v.feedback_id for v in votes]}
        conn.execute(text("update feedback set received_at = :at where feedback_id = any(:ids)"), feedback)
    return items


def dump(engine):
    """All rows of all tables as one text, bytes as text where they are text."""
    with engine.connect() as conn:
        rows = [conn.execute(text(f"select t::text from {t.name} t")).scalars().all() for t in metadata.sorted_tables]
        raw = conn.execute(text("select encode(raw, 'escape') from dead_letter")).scalars().all()
    return "\n".join(row for rows_ in (*rows, raw) for row in rows_)


def count(engine, table):
    with engine.connect() as conn:
        return conn.execute(text(f"select count(*) from {table}")).scalar_one()


def test_what_is_older_goes_with_all_that_hangs_on_it_and_the_rest_stays(engine):
    parts = tuple(SegmentRecord(segment_index=i, text=f"part {i}", route="billing") for i in range(2))
    old = store(engine, [event("old", segments=parts, client_request_id="c")], days=91)
    new = store(engine, [event("new", segments=parts)], days=89)
    store(engine, votes=[vote(old[0]), vote("never came", comment="stray")], days=91)
    store(engine, votes=[vote(old[0]), vote(new[0]), vote("comes later")], days=1)
    counts = prune(engine, before=NOW - timedelta(days=90), text_before=None)
    assert counts == Counter(inferences=1, feedback=3)
    found = {table: count(engine, table) for table in ("inference", "segment", "inference_payload", "inference_alias")}
    assert found == {"inference": 1, "segment": 2, "inference_payload": 1, "inference_alias": 0}
    assert count(engine, "feedback") == 2
    assert not prune(engine, before=NOW - timedelta(days=90), text_before=None)


def test_texts_and_embeddings_go_earlier_and_the_counts_stay(engine):
    parts = tuple(SegmentRecord(segment_index=i, text="canary part", route="billing", embedding=b"x") for i in range(2))
    old = store(engine, [event(f"canary {i}", segments=parts) for i in range(1200)], days=31)
    store(engine, [event("fresh")], days=1)
    store(engine, votes=[vote(old[0], comment="canary"), vote("never came", comment="canary")], days=31)
    with engine.begin() as conn:
        quarantine(conn, endpoint="x", reason_code="y", raw=b"canary")
        conn.execute(text("update dead_letter set received_at = :at"), {"at": NOW - timedelta(days=31)})
    counts = prune(engine, before=NOW - timedelta(days=90), text_before=NOW - timedelta(days=30))
    assert counts == Counter(texts=1200, comments=2, dead_letters=1)
    assert (count(engine, "inference"), count(engine, "feedback"), "canary" in dump(engine)) == (1201, 2, False)
    with engine.connect() as conn:
        kept = "select redaction, embedding is null from inference_payload group by 1, 2 order by 1"
        assert conn.execute(text(kept)).all() == [("erased", True), ("full", False)]
        assert conn.execute(text("select count(*) from segment where embedding is not null")).scalar_one() == 0
    late = Inference(inference_id=old[0].inference_id, payload=Payload(answer="late"), source="route")
    store(engine, [late], days=31)  # a text that comes again later goes again
    assert prune(engine, before=None, text_before=NOW - timedelta(days=30))["texts"] <= 1
    assert "late" not in dump(engine).replace("comes later", "")


def test_texts_of_segments_and_comments_go_though_the_inference_has_no_text_itself(engine):
    parts = tuple(SegmentRecord(segment_index=i, text="canary part", route="billing") for i in range(2))
    bare = Inference(inference_id=new_id(), segment_outcomes=parts, payload_sha256=b"x")
    store(engine, [bare], [vote(bare, comment="canary")], days=31)
    would_go = count_prunable_texts(engine)
    counts = prune(engine, before=None, text_before=NOW - timedelta(days=30))
    assert counts == would_go == Counter(texts=1, comments=1)
    assert "canary" not in dump(engine)


def count_prunable_texts(engine):
    with engine.connect() as conn:
        return +Counter(count_prunable(conn, before=None, text_before=NOW - timedelta(days=30)))


def test_a_comment_goes_at_its_own_age_though_the_text_went_before_it_came(engine):
    old = store(engine, [event("question")], days=40)
    prune(engine, before=None, text_before=NOW - timedelta(days=35))
    late = vote(old[0], comment="canary late")
    store(engine, votes=[late], days=33)
    store(engine, votes=[vote(old[0], comment="of yesterday")], days=1)
    with engine.begin() as conn:  # a second revision has a time of its own
        store_feedback(conn, [replace(late, op="revise", comment="revised today", payload_sha256=b"y")])
    assert prune(engine, before=None, text_before=NOW - timedelta(days=30)) == Counter(comments=1)
    kept = dump(engine)
    assert ("canary" in kept, "of yesterday" in kept, "revised today" in kept) == (False, True, True)


def test_the_text_under_the_id_of_zeros_goes_too(engine):
    nil = replace(event("canary"), inference_id=UUID(int=0))
    store(engine, [nil], days=40)
    assert prune(engine, before=None, text_before=NOW - timedelta(days=30)) == Counter(texts=1)
    assert "canary" not in dump(engine)


def test_no_statement_of_a_prune_takes_more_rows_than_a_batch(engine):
    items = store(engine, [event(f"canary {i}") for i in range(1200)], days=31)
    votes = [vote(item, comment="canary") for item in items] + [vote(f"r-{i}", comment="canary") for i in range(1200)]
    store(engine, votes=votes, days=31)
    with engine.begin() as conn:
        for _ in range(1200):
            quarantine(conn, endpoint="x", reason_code="y", raw=b"canary")
        conn.execute(text("update dead_letter set received_at = :at"), {"at": NOW - timedelta(days=31)})
    written = []

    def note(_conn, cursor, statement, *_):
        if statement.lstrip().startswith(("update", "delete")):
            written.append(cursor.rowcount)

    listen(engine, "after_cursor_execute", note)
    counts = prune(engine, before=None, text_before=NOW - timedelta(days=30))
    assert counts == Counter(texts=1200, comments=2400, dead_letters=1200)
    assert "canary" not in dump(engine)
    counts = prune(engine, before=NOW - timedelta(days=30), text_before=None)
    assert (counts, max(written)) == (Counter(inferences=1200, feedback=2400), BATCH)


def test_a_text_stays_in_a_report_no_longer_than_in_the_log(engine):
    store(engine, [event("canary gone")], days=31)
    store(engine, [event("still there")], days=1)
    queries = [{"text": t, "before": "a", "after": "b"} for t in ("canary gone", "still there")]
    with engine.begin() as conn:
        insert = "insert into learner_run (run_id, fencing_token, status, report) values (:id, 1, 'finished', :report)"
        report = json.dumps({"changed": {"queries": queries}})
        conn.execute(text(insert), {"id": uuid4(), "report": report})
    counts = prune(engine, before=None, text_before=NOW - timedelta(days=30))
    assert (counts["reports"], "canary" in dump(engine), "still there" in dump(engine)) == (1, False, True)


def test_the_intake_goes_on_while_a_prune_deletes_a_lot(engine, app_settings, fleet, encoder):
    with engine.begin() as conn:
        publish(conn, build_first_version(fleet, encoder=encoder), actor="t", reason="t", parent=None)
    for _ in range(8):
        store(engine, [event("old") for _ in range(500)], days=91)
    url = engine.url.render_as_string(hide_password=False)
    with running(app_settings, url) as address, httpx.Client(base_url=address, timeout=20) as http:
        http.post("/v1/inferences", json={"query": "warm", "decision": {"route": "billing"}})
        pruning = threading.Thread(
            target=prune, args=(engine,), kwargs={"before": NOW - timedelta(days=90), "text_before": None}
        )
        pruning.start()
        statuses, slowest, sent = Counter(), 0.0, 0
        while pruning.is_alive() or sent < 20:
            began = time.monotonic()
            answer = http.post("/v1/inferences", json={"query": "new", "decision": {"route": "billing"}})
            statuses[answer.status_code] += 1
            slowest, sent = max(slowest, time.monotonic() - began), sent + 1
        pruning.join()
    assert set(statuses) == {201}
    assert slowest < 2.0, (slowest, sent)
    assert count(engine, "inference") == sent + 1


def test_a_row_that_somebody_holds_is_left_for_the_next_time_and_never_waited_for(engine):
    held, free = store(engine, [event("held"), event("free")], days=91)
    with engine.begin() as other:
        other.execute(text("select 1 from inference where inference_id = :id for update"), {"id": held.inference_id})
        began = time.monotonic()
        assert prune(engine, before=NOW, text_before=None)["inferences"] == 1
        assert time.monotonic() - began < 5
    assert prune(engine, before=NOW, text_before=None)["inferences"] == 1
    assert free.inference_id != held.inference_id


def test_texts_in_rows_that_somebody_holds_are_left_for_the_next_time_and_never_waited_for(engine):
    parts = tuple(SegmentRecord(segment_index=i, text="held", route="billing") for i in range(2))
    held = store(engine, [event("held", segments=parts)], days=31)
    store(engine, votes=[vote(held[0], comment="held"), vote("never came", comment="held")], days=31)
    with engine.begin() as conn:
        quarantine(conn, endpoint="x", reason_code="y", raw=b"held")
        conn.execute(text("update dead_letter set received_at = :at"), {"at": NOW - timedelta(days=31)})
    with engine.begin() as other:
        for table in ("inference_payload", "segment", "feedback", "dead_letter"):
            other.execute(text(f"select 1 from {table} for update"))
        assert not prune(engine, before=None, text_before=NOW - timedelta(days=30))
    counts = prune(engine, before=None, text_before=NOW - timedelta(days=30))
    assert counts == Counter(texts=1, comments=2, dead_letters=1)


CANARY = "canary-7f3a"


@pytest.fixture
def person(engine):
    """A person who left traces everywhere, and somebody else who asked the same once."""
    parts = tuple(SegmentRecord(segment_index=i, text=f"{CANARY} part {i}", route="billing") for i in range(2))
    theirs = store(engine, [event(f"{CANARY} question", user="ann", segments=parts, session_id="s-1")])
    shared = store(engine, [event("where is my parcel", user="ann"), event("where is my parcel", user="bob")])
    votes = [
        *(
            vote(theirs[0], user="bob", comment=f"{CANARY} said bob"),
            vote(shared[1], user="ann", comment=f"{CANARY} x"),
        ),
        *(vote(shared[1], user="session s-1", comment=CANARY), vote(shared[1], user="bob", comment="fine")),
        vote("never came", user="ann", comment=CANARY),
    ]
    store(engine, votes=votes)
    queries = [{"text": t} for t in (f"{CANARY} question", "where is my parcel", "unheard of")]
    broken = f"Broken: {f'{CANARY} question'[:80]!r}."
    report = {"changed": {"queries": queries}, "examples": [{"inference_id": str(theirs[0].inference_id)}]}
    with engine.begin() as conn:
        quarantine(conn, endpoint="x", reason_code="y", raw=f'{{"end_user": "{keyed_hash("ann", key=KEY)}"}}'.encode())
        quarantine(conn, endpoint="x", reason_code="y", raw=b'{"end_user": "ann", "query": "canary-7f3a"}')
        quarantine(conn, endpoint="x", reason_code="y", raw=b'{"end_user": "annabel"}')
        values = {"id": theirs[0].inference_id, "q": f"{CANARY} question", "report": json.dumps(report)}
        values |= {"reasons": json.dumps([{"sentence": broken}])}
        golden = (
            "golden_query (golden_id, query, routes, inference_id, added_by) values ('g', :q, '{billing}', :id, 't')"
        )
        columns = "learner_run (run_id, fencing_token, status, report, reasons)"
        night = f"{columns} values (gen_random_uuid(), 1, 'finished', :report, :reasons)"
        for statement in (f"insert into {golden}", f"insert into {night}"):
            used = {name: value for name, value in values.items() if f":{name}" in statement}
            conn.execute(text(statement), used)
    return theirs[0]


def test_a_person_is_erased_everywhere_and_nobody_else(engine, person):
    before = dump(engine)
    assert (CANARY in before, keyed_hash("ann", key=KEY) in before) == (True, True)
    counts = erase(engine, "ann", key=KEY, actor="a test")
    assert counts == Counter(inferences=2, feedback=4, golden_queries=1, dead_letters=2, reports=2)
    after = dump(engine)
    for trace in (
        CANARY,
        keyed_hash("ann", key=KEY),
        keyed_hash("session s-1", key=KEY),
        str(person.inference_id),
        '"ann"',
    ):
        assert trace not in after
    assert (count(engine, "inference"), count(engine, "feedback"), count(engine, "dead_letter")) == (1, 1, 1)
    assert (after.count("where is my parcel") >= 2, "unheard of" in after) == (True, True)
    with engine.connect() as conn:
        assert list_golden(conn) == []
        assert conn.execute(text("select counts ->> 'inferences' from erasure")).scalar_one() == "2"


def test_votes_go_that_name_what_is_erased_by_an_id_that_others_have_as_well(engine):
    spans = [{"trace_id": "t", "span_id": str(i), "response_id": "r"} for i in range(3)]
    store(engine, [event("other", user="bob", **spans[0] | {"trace_id": "another"})])
    resolved = vote("r", comment="it stays, of bob's alone")
    store(engine, votes=[resolved])
    with engine.begin() as conn:  # as if it had come when only one had the id
        conn.execute(text("update feedback set inference_id = (select inference_id from inference)"))
        conn.execute(text("update feedback set resolution = 'resolved'"))
    store(engine, [event("one", user="ann", **spans[1]), event("two", user="ann", **spans[2])])
    votes = [replace(vote("t", comment=f"{CANARY} I am Ann"), target_kind="trace"), vote("r", comment=CANARY)]
    store(engine, votes=votes)
    with engine.connect() as conn:
        states = "select resolution from feedback order by 1"
        assert conn.execute(text(states)).scalars().all() == ["ambiguous", "ambiguous", "resolved"]
    assert erase(engine, "ann", key=KEY, actor="a test") == Counter(inferences=2, feedback=2)
    assert (CANARY in dump(engine), count(engine, "feedback"), count(engine, "inference")) == (False, 1, 1)


@pytest.mark.parametrize("decided_first", [True, False], ids=["decided first", "logged first"])
@pytest.mark.parametrize("asked_as", ["ann7", "gateway-7"])
def test_a_person_is_found_by_both_ids_under_which_the_two_roads_know_them(engine, decided_first, asked_as):
    key = new_id()
    decided = {"source": "route", "decision": DecisionRecord(route="billing"), "payload": Payload(query=CANARY)}
    roads = [
        Inference(inference_id=key, end_user=keyed_hash("ann7", key=KEY), **decided),
        Inference(inference_id=key, end_user=keyed_hash("gateway-7", key=KEY), payload_sha256=b"x"),
    ]
    for road in roads if decided_first else reversed(roads):
        store(engine, [road])
    with engine.begin() as conn:
        first = "ann7" if decided_first else "gateway-7"
        assert conn.execute(text("select end_user from inference")).scalar_one() == keyed_hash(first, key=KEY)
        put_golden(conn, [promoted(conn, key, ["billing"], by="an operator")])
    assert erase(engine, asked_as, key=KEY, actor="a test") == Counter(inferences=1, golden_queries=1)
    assert (CANARY in dump(engine), count(engine, "inference_alias")) == (False, 0)


@pytest.mark.parametrize("asked_as", ["ann7", "gateway-7"])
def test_a_golden_query_is_found_by_both_ids_when_its_rows_are_pruned(engine, asked_as):
    key = new_id()
    payload = Payload(query=CANARY)
    store(engine, [Inference(inference_id=key, source="route", end_user=keyed_hash("ann7", key=KEY), payload=payload)])
    store(engine, [Inference(inference_id=key, end_user=keyed_hash("gateway-7", key=KEY), payload_sha256=b"x")])
    with engine.begin() as conn:
        put_golden(conn, [promoted(conn, key, ["billing"], by="an operator")])
    prune(engine, before=datetime.now(UTC), text_before=None)
    assert erase(engine, asked_as, key=KEY, actor="a test") == Counter(golden_queries=1)
    assert CANARY not in dump(engine)


def test_one_id_on_both_roads_is_kept_once(engine):
    key, user = new_id(), keyed_hash("ann", key=KEY)
    store(engine, [Inference(inference_id=key, source="route", end_user=user)])
    store(engine, [Inference(inference_id=key, end_user=user, payload_sha256=b"x")])
    store(engine, [Inference(inference_id=new_id(), end_user=user, payload_sha256=b"x")])
    assert count(engine, "inference_alias") == 0


def test_what_nights_wrote_of_others_names_an_erased_inference_no_more(engine):
    bobs, anns = store(engine, [event("first", user="bob", session_id="s"), event("again", user="ann", session_id="s")])
    gone = str(anns.inference_id)
    with engine.begin() as conn:
        values = {"run": uuid4(), "error": f"ValueError: {gone} is odd", "theirs": bobs.inference_id}
        values["evidence"] = json.dumps({"route": "billing", "asked_again_as": gone})
        night = "learner_run (run_id, fencing_token, status, error) values (:run, 1, 'failed', :error)"
        mined = (
            "mined_failure (run_id, inference_id, kind, evidence, weight) values (:run, :theirs, 'reask', :evidence, 1)"
        )
        for row in (night, mined):
            conn.execute(text(f"insert into {row}"), {n: v for n, v in values.items() if f":{n}" in row})
    assert erase(engine, "ann", key=KEY, actor="a test") == Counter(inferences=1, reports=1)
    assert gone not in dump(engine)
    with engine.connect() as conn:
        assert conn.execute(text("select error from learner_run")).scalar_one() == "ValueError: [erased] is odd"
        evidence = conn.execute(text("select evidence from mined_failure")).scalar_one()
    assert evidence == {"route": "billing", "asked_again_as": "[erased]"}


def test_erasing_somebody_who_left_nothing_changes_nothing(engine, person):
    before = {table.name: count(engine, table.name) for table in metadata.sorted_tables}
    assert not erase(engine, "nobody", key=KEY, actor="a test")
    assert not erase(engine, "ann", key=b"another", actor="a test").total() - 1  # another key finds the plain id alone
    after = {table.name: count(engine, table.name) for table in metadata.sorted_tables}
    changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert changed == {"erasure": 1, "dead_letter": -1, "learner_lease": 1}


def test_golden_queries_of_somebody_whose_rows_are_pruned_or_who_corrected_them_are_found(engine):
    theirs, bobs = store(engine, [event(f"{CANARY} a", user="ann"), event(f"{CANARY} b", user="bob")], days=91)
    correction = replace(vote(bobs, user="ann"), value="down", correction="billing")
    store(engine, votes=[correction, replace(vote(theirs, user="ann"), correction="billing")], days=91)
    with engine.begin() as conn:
        put_golden(conn, [promoted(conn, item.inference_id, [], by="an operator") for item in (theirs, bobs)])
        put_golden(conn, [golden("where is my parcel", ["billing"], by="an operator")])
    prune(engine, before=NOW, text_before=None)
    assert CANARY in dump(engine)
    assert erase(engine, "ann", key=KEY, actor="a test") == Counter(golden_queries=2)
    assert (CANARY in dump(engine), count(engine, "golden_query")) == (False, 1)


def test_nobody_is_erased_while_a_night_may_write_what_it_has_read_of_them(engine, person):
    with engine.begin() as conn:
        lease.acquire(conn, holder="a night")
    with pytest.raises(lease.LeaseHeld):
        erase(engine, "ann", key=KEY, actor="a test")
    assert CANARY in dump(engine)


def test_a_golden_query_that_an_operator_wrote_stays_though_the_person_asked_the_same(engine, person):
    with engine.begin() as conn:
        put_golden(conn, [golden("where is my parcel", ["delivery"], by="an operator")])
        exported = golden(f"{CANARY} question", ["delivery"], by="an import of what was exported")
        conn.execute(text("update golden_query set golden_id = :id where golden_id = 'g'"), {"id": exported.golden_id})
        put_golden(conn, [exported])
        theirs = conn.execute(text("select inference_id from inference_payload where query = 'where is my parcel'"))
        for inference_id in theirs.scalars().all():
            put_golden(conn, [promoted(conn, inference_id, ["billing"], by="an operator")])
    assert erase(engine, "ann", key=KEY, actor="a test")["golden_queries"] == 1
    with engine.connect() as conn:
        assert [(item.query, item.routes) for item in list_golden(conn)] == [("where is my parcel", ("billing",))]


def test_a_long_erasure_keeps_the_learner_off_until_it_is_done(engine, person, monkeypatch):
    monkeypatch.setattr(lease, "DURATION", timedelta(seconds=1))
    monkeypatch.setattr(runs, "_BEAT_SECONDS", 0.2)
    with ThreadPoolExecutor(1) as pool, engine.connect() as slow:
        slow.execute(text("select 1 from inference where inference_id = :id for update"), {"id": person.inference_id})
        erasing = pool.submit(erase, engine, "ann", key=KEY, actor="a test")
        time.sleep(2.5)
        with engine.begin() as conn, pytest.raises(lease.LeaseHeld):
            lease.acquire(conn, holder="a night")
        slow.rollback()
        assert erasing.result(30)["inferences"] == 2
    with engine.begin() as conn:
        lease.acquire(conn, holder="a night")


def waiting_for_a_lock(engine):
    query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with engine.connect() as conn:
        return conn.execute(text(query)).scalar_one()


def test_an_erasure_that_lost_its_lease_changes_nothing(engine, person, monkeypatch):
    monkeypatch.setattr(lease, "DURATION", timedelta(0))
    monkeypatch.setattr(runs, "_BEAT_SECONDS", 60.0)
    with ThreadPoolExecutor(1) as pool, engine.connect() as slow:
        slow.execute(text("select 1 from inference where inference_id = :id for update"), {"id": person.inference_id})
        erasing = pool.submit(erase, engine, "ann", key=KEY, actor="a test")
        while not waiting_for_a_lock(engine):
            time.sleep(0.02)
        with engine.begin() as conn:
            lease.acquire(conn, holder="a night")
        slow.rollback()
        with pytest.raises(lease.LeaseHeld):
            erasing.result(30)
    assert CANARY in dump(engine)


def test_neither_logs_nor_files_of_the_server_hold_a_text_or_a_person(
    engine, tmp_path, fleet_file, fleet, encoder, capfd
):
    with engine.begin() as conn:
        publish(conn, build_first_version(fleet, encoder=encoder), actor="t", reason="t", parent=None)
    settings = read_settings(home=tmp_path, fleet=fleet_file, log_level="debug")
    url = engine.url.render_as_string(hide_password=False)
    with running(settings, url) as address, httpx.Client(base_url=address, timeout=20) as http:
        asked = {"query": f"{CANARY} why", "session_id": CANARY, "metadata": {"end_user": CANARY}}
        decided = http.post("/v1/route", json=asked).json()
        judged = {"inference_id": decided["inference_id"], "value": "up", "comment": CANARY, "submitter": CANARY}
        assert http.post("/v1/feedback", json=judged).status_code in (201, 202)
        assert http.post("/v1/feedback", json={CANARY: CANARY}).status_code == 422
    assert CANARY in dump(engine)
    erase(engine, CANARY, key=settings.hash_key(), actor="a test")
    assert CANARY not in dump(engine)
    printed = "".join(capfd.readouterr())
    files = [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert (CANARY in printed, files) == (False, [])


def test_a_text_that_quotes_its_own_inference_goes_whole_from_reports(engine):
    key = new_id()
    said = f"why did {key} go to math?"
    with engine.begin() as conn:
        night = "learner_run (run_id, fencing_token, status, report) values (:run, 1, 'finished', :report)"
        report = json.dumps({"examples": [said, f"about {key}"]})
        conn.execute(text(f"insert into {night}"), {"run": uuid4(), "report": report})
        scrub_reports(conn, texts=[said], ids=frozenset({str(key)}))
        kept = conn.execute(text("select report from learner_run")).scalar_one()
    assert kept == {"examples": ["[erased]", "about [erased]"]}
