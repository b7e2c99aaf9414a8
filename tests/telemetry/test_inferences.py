import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, func, select, text

from telemetry.database import create_engine
from telemetry.dead_letters import counts, list_dead_letters, quarantine
from telemetry.feedback import store_feedback
from telemetry.ids import new_id
from telemetry.inference_reading import read_inference
from telemetry.inferences import store_inferences
from telemetry.records import (
    CandidateRecord,
    DecisionRecord,
    Feedback,
    Inference,
    OutcomeRecord,
    Payload,
    SegmentRecord,
    StoreResult,
)
from telemetry.tables import dead_letter, inference


def decision(route: str = "billing", *, segments: tuple[SegmentRecord, ...] = ()) -> DecisionRecord:
    return DecisionRecord(
        router_version=3,
        policy="centroid",
        cause="centroid",
        route=route,
        score=0.8,
        margin=0.3,
        propensity=0.97,
        explored=False,
        split_reason="one question",
        candidates=(CandidateRecord(route=route, probability=0.8, utility=0.7, similarity=0.6),),
        segments=segments,
    )


def logged(inference_id: UUID | None = None, **changes: object) -> Inference:
    values: dict[str, object] = {
        "inference_id": inference_id or new_id(),
        "outcome": OutcomeRecord(output_tokens=12, cost=1e-4, finish_reason="stop"),
        "payload": Payload(query="why was I charged twice?", answer="Because."),
        "payload_sha256": b"one",
    }
    return Inference(**{**values, **changes})  # type: ignore[arg-type]


def decided(inference_id: UUID) -> Inference:
    return Inference(inference_id=inference_id, source="route", decision=decision(), payload=Payload(query="why?"))


def test_the_same_event_again_is_a_duplicate_and_another_body_a_conflict(connection: Connection) -> None:
    item = logged()
    other = logged(item.inference_id, payload_sha256=b"two")
    assert [r.status for r in store_inferences(connection, [item])] == ["stored"]
    assert [r.status for r in store_inferences(connection, [item, other])] == ["duplicate", "conflict"]
    assert counts(connection)["inferences"] == 1


@pytest.mark.parametrize("decision_first", [True, False])
def test_decision_and_outcome_merge_whichever_comes_first(connection: Connection, decision_first: bool) -> None:
    key = new_id()
    roads = [decided(key), logged(key, decision=decision("sent by the client"))]
    for item in roads if decision_first else reversed(roads):
        assert store_inferences(connection, [item])[0].status == "stored"
    stored = read_inference(connection, key)
    assert stored is not None
    assert stored.inference["route"] == "billing"
    assert stored.inference["output_tokens"] == 12
    assert sorted(stored.inference["sources"]) == ["inferences", "route"]
    assert stored.payload is not None
    assert stored.payload["answer"] == "Because."


def test_both_roads_in_one_batch_make_one_row(connection: Connection) -> None:
    key = new_id()
    assert [r.status for r in store_inferences(connection, [logged(key), decided(key)])] == ["stored", "stored"]
    assert counts(connection)["inferences"] == 1


def test_segments_of_a_split_query_carry_offsets_and_their_own_outcome(connection: Connection) -> None:
    parts = tuple(
        SegmentRecord(segment_index=i, start_offset=10 * i, end_offset=10 * i + 9, text="x", route=route)
        for i, route in enumerate(("billing", "travel"))
    )
    outcome = SegmentRecord(segment_index=1, output_tokens=7)
    item = logged(decision=decision(segments=parts), segment_outcomes=(outcome,))
    store_inferences(connection, [item])
    stored = read_inference(connection, item.inference_id)
    assert stored is not None
    assert [(s["route"], s["start_offset"], s["output_tokens"]) for s in stored.segments] == [
        ("billing", 0, None),
        ("travel", 10, 7),
    ]


def came(index: int) -> SegmentRecord:
    return SegmentRecord(
        segment_index=index,
        request_model="billing-slm",
        input_tokens=3,
        output_tokens=140,
        cost=0.2,
        duration_ms=830.0,
        finish_reason="stop",
    )


@pytest.mark.parametrize("decision_first", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_the_outcome_of_the_only_segment_is_the_inferences_own(
    connection: Connection, decision_first: bool, together: bool
) -> None:
    key = new_id()
    items = [decided(key), logged(key, outcome=OutcomeRecord(cost=0.3), segment_outcomes=(came(0),))]
    items = items if decision_first else items[::-1]
    for batch in [items] if together else [[item] for item in items]:
        assert {result.status for result in store_inferences(connection, batch)} == {"stored"}
    stored = read_inference(connection, key)
    assert stored is not None
    assert (stored.segments, stored.inference["output_tokens"], stored.inference["duration_ms"]) == ([], 140, 830)
    assert (stored.inference["cost"], stored.inference["finish_reason"]) == (0.3, "stop")
    assert stored.inference["request_model"] == "billing-slm"


def test_the_outcome_of_an_external_decisions_only_segment_is_the_inferences_own(connection: Connection) -> None:
    part = came(0)
    item = logged(outcome=OutcomeRecord(), decision=decision(segments=(part,)), segment_outcomes=(part,))
    store_inferences(connection, [item])
    stored = read_inference(connection, item.inference_id)
    assert stored is not None
    assert (stored.segments, stored.inference["output_tokens"]) == ([], 140)


def test_one_segments_outcome_of_a_split_query_stays_that_segments(connection: Connection) -> None:
    key, parts = new_id(), tuple(SegmentRecord(segment_index=i, text="x", route="billing") for i in range(2))
    split = Inference(inference_id=key, source="route", decision=decision(segments=parts))
    store_inferences(connection, [split])
    store_inferences(connection, [logged(key, outcome=OutcomeRecord(), segment_outcomes=(came(1),))])
    stored = read_inference(connection, key)
    assert stored is not None
    assert [(s["route"], s["output_tokens"]) for s in stored.segments] == [("billing", None), ("billing", 140)]
    assert stored.inference["output_tokens"] is None


def test_outcomes_of_segments_that_the_decision_lacks_are_refused(connection: Connection) -> None:
    key = new_id()
    store_inferences(connection, [decided(key)])
    (result,) = store_inferences(connection, [logged(key, segment_outcomes=(came(0), came(1)))])
    sentence = "The decision has 1 segment, so no segment_index 1; nothing was changed."
    assert (result.status, result.message) == ("conflict", sentence)
    stored = read_inference(connection, key)
    assert stored is not None
    assert (stored.segments, stored.inference["sources"]) == ([], ["route"])
    right = logged(key, outcome=OutcomeRecord(), segment_outcomes=(came(0),))
    assert store_inferences(connection, [right])[0].status == "stored"
    assert store_inferences(connection, [right])[0].status == "duplicate"


def test_outcomes_before_a_decision_without_their_segment_become_dead_letters(connection: Connection) -> None:
    key = new_id()
    event = logged(key, outcome=OutcomeRecord(), segment_outcomes=(came(0), came(1)))
    assert store_inferences(connection, [event])[0].status == "stored"
    store_inferences(connection, [decided(key)])
    stored = read_inference(connection, key)
    assert stored is not None
    assert (stored.segments, stored.inference["output_tokens"]) == ([], 140)
    (letter,) = connection.execute(select(dead_letter)).mappings()
    assert (letter["reason_code"], str(key).encode() in letter["raw"]) == ("unknown_segment", True)
    assert store_inferences(connection, [event])[0].status == "duplicate"


def test_a_list_of_dead_letters_says_how_long_each_is_and_carries_none(connection: Connection) -> None:
    for size in (0, 7, 5_000):
        quarantine(connection, endpoint="/v1/inferences", reason_code="x", raw=b"\0" * size)
    listed = list_dead_letters(connection, limit=2)
    assert [letter["raw"] for letter in listed] == [{"bytes": 5_000}, {"bytes": 7}]
    assert set(listed[0]) == {column.name for column in dead_letter.columns}
    rest = list_dead_letters(connection, after=listed[-1]["dead_letter_id"])
    assert [letter["raw"] for letter in rest] == [{"bytes": 0}]


@pytest.mark.parametrize("bad", [1, 37, 99])
def test_bad_rows_do_not_harm_their_batch(connection: Connection, bad: int) -> None:
    batch = [logged(payload_sha256=bytes([i])) for i in range(100)]
    spoiled = set(random.Random(bad).sample(range(100), bad))
    batch = [logged(item.inference_id, response_id="nul\0") if i in spoiled else item for i, item in enumerate(batch)]
    results = store_inferences(connection, batch)
    assert {i for i, r in enumerate(results) if r.status == "quarantined"} == spoiled
    assert sum(r.status == "stored" for r in results) == 100 - bad
    assert connection.execute(select(func.count()).select_from(dead_letter)).scalar_one() == bad


def test_an_id_too_long_for_an_index_harms_nobody_else(connection: Connection) -> None:
    endless = "".join(random.Random(0).choices([chr(c) for c in range(0x4E00, 0x9FFF)], k=5_000))  # does not compress
    results = store_inferences(connection, [logged(), logged(trace_id=endless), logged()])
    assert [r.status for r in results] == ["stored", "quarantined", "stored"]


def spanned(**changes: object) -> Inference:
    """An event whose client gave it no id but that of its span."""
    return logged(**{"trace_id": "t", "span_id": "s", **changes})


ANOTHERS = "another inference has this trace_id and span_id"


def test_two_inferences_with_one_span_conflict_without_an_error_of_the_database(connection: Connection) -> None:
    first, second, other = spanned(), spanned(payload_sha256=b"two"), logged()
    store = partial(store_inferences, connection, apart=False)
    assert [r.status for r in store([first])] == ["stored"]
    found = [(r.id, r.status, r.message) for r in store([second, other])]
    assert found == [(second.inference_id, "conflict", ANOTHERS), (other.inference_id, "stored", "")]
    (result,) = store([replace(second, inference_id=first.inference_id)])
    assert (result.status, result.message) == ("conflict", "")


def test_the_same_event_of_one_span_again_is_a_duplicate_and_answered_with_the_id_that_is_stored(
    connection: Connection,
) -> None:
    store = partial(store_inferences, connection, apart=False)
    events = [spanned(), logged(), spanned(), spanned(payload_sha256=b"two"), spanned(span_id="another")]
    key = events[0].inference_id
    for statuses in (
        ["stored", "stored", "duplicate", "conflict", "stored"],
        ["duplicate"] * 3 + ["conflict", "duplicate"],
    ):
        results = store(events)
        assert [r.status for r in results] == statuses
        assert [results[i].id for i in (0, 2)] == [key, key]
        assert results[3].message == ANOTHERS
        events = [replace(event, inference_id=new_id()) if event.trace_id else event for event in events]
    assert counts(connection)["inferences"] == 3


def test_a_decision_whose_outcome_has_the_span_of_another_inference_stays_without_it(connection: Connection) -> None:
    key = new_id()
    store_inferences(connection, [decided(key), spanned()])
    (result,) = store_inferences(connection, [spanned(inference_id=key, payload_sha256=b"two")], apart=False)
    assert (result.id, result.status, result.message) == (key, "conflict", ANOTHERS)
    stored = read_inference(connection, key)
    assert stored is not None
    assert stored.inference["sources"] == ["route"]


def test_sixteen_clients_with_one_span_make_one_row_and_get_one_id(engine: Engine) -> None:
    start = threading.Barrier(16)

    def send(_: int) -> tuple[str, UUID]:
        start.wait()
        with engine.begin() as conn:
            (result,) = store_inferences(conn, [spanned()])
        return result.status, result.id

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(send, range(16)))
    assert sorted(status for status, _ in found) == ["duplicate"] * 15 + ["stored"]
    assert len({key for _, key in found}) == 1


def test_what_is_refused_is_not_taken_for_stored_when_its_batch_has_it_twice(connection: Connection) -> None:
    item = logged()
    other = replace(item, payload_sha256=b"two")
    store_inferences(connection, [item])
    assert [r.status for r in store_inferences(connection, [other, other])] == ["conflict", "conflict"]


NUL = {"session_id": "\0"}  # the schema keeps it out; Postgres would not have it


@pytest.mark.parametrize("way", ["its id is taken", "the database refuses it"])
def test_what_was_not_stored_stands_in_the_way_of_nothing_behind_it(connection: Connection, way: str) -> None:
    taken = logged()
    store_inferences(connection, [taken])
    before = spanned(inference_id=taken.inference_id) if way == "its id is taken" else spanned(**NUL)
    behind, last = spanned(payload_sha256=b"three"), spanned(payload_sha256=b"four")
    results = store_inferences(connection, [replace(before, payload_sha256=b"two"), behind, last])
    refused = "conflict" if way == "its id is taken" else "quarantined"
    assert [result.status for result in results] == [refused, "stored", "conflict"]


def test_an_id_whose_first_event_was_refused_for_its_span_is_free(connection: Connection) -> None:
    one, key = spanned(), new_id()
    events = [one, spanned(inference_id=key, payload_sha256=b"two"), logged(key, payload_sha256=b"three")]
    assert [result.status for result in store_inferences(connection, events)] == ["stored", "conflict", "stored"]


def test_sixteen_clients_with_the_same_event_make_one_row(engine: Engine) -> None:
    item = logged(client_request_id="c")
    statuses: list[str] = []

    def send() -> None:
        with engine.begin() as conn:
            statuses.append(store_inferences(conn, [item])[0].status)

    threads = [threading.Thread(target=send) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == ["duplicate"] * 15 + ["stored"]


def test_the_same_events_in_two_orders_at_once_wait_for_each_other_and_nothing_fails(
    stored_in_two_orders: Callable[..., list[list[StoreResult]]],
) -> None:
    items = [logged(UUID(int=i), client_request_id=str(i)) for i in (1, 2, 3)]

    found = stored_in_two_orders(store_inferences, items)
    assert [[result.id.int for result in results] for results in found] == [[1, 2, 3], [3, 2, 1]]
    assert sorted(result.status for results in found for result in results) == ["duplicate"] * 4 + ["stored"] * 2


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations([0, 1, 2, 3, 0, 1, 2, 3, 4]))
def test_any_order_and_repetition_of_events_leaves_the_same_rows(engine: Engine, order: list[int]) -> None:
    keys = [UUID(int=i + 1) for i in range(3)]
    events = [decided(keys[0]), logged(keys[0]), logged(keys[1]), decided(keys[2]), decided(keys[1])]
    with engine.connect() as conn:
        for at in range(0, len(order), 4):
            store_inferences(conn, [events[i] for i in order[at : at + 4]])
        columns = (inference.c.inference_id, inference.c.route, inference.c.output_tokens, inference.c.payload_sha256)
        rows = [tuple(row) for row in conn.execute(select(*columns).order_by(inference.c.inference_id))]
        conn.rollback()
    assert rows == [
        (keys[0], "billing", 12, b"one"),
        (keys[1], "billing", 12, b"one"),
        (keys[2], "billing", None, None),
    ]


@pytest.mark.fault("clocks a day off")
@pytest.mark.parametrize("hours", [-24, -1, 24])
def test_a_clock_that_is_off_is_repaired(connection: Connection, hours: int) -> None:
    now = f"clock_timestamp() + interval '{hours} hours'"
    created, sent = connection.execute(text(f"select {now} - interval '5 s', {now}")).one()
    item = logged(occurred_at=created, client_sent_at=sent)
    store_inferences(connection, [item])
    off = text("select extract(epoch from clock_timestamp() - occurred_at) from inference")
    assert 4 < float(connection.execute(off).scalar_one()) < 10


def test_feedback_before_its_inference_waits_and_is_resolved_by_any_alias(connection: Connection) -> None:
    by_alias = Feedback(
        feedback_id=uuid4(), target_kind="response_id", target_value="r1", value="up", payload_sha256=b"x"
    )
    item = logged(response_id="r1")
    by_id = Feedback(
        feedback_id=uuid4(),
        target_kind="inference_id",
        target_value=str(item.inference_id),
        value="down",
        payload_sha256=b"y",
    )
    assert [r.resolution for r in store_feedback(connection, [by_alias, by_id])] == ["pending", "pending"]
    store_inferences(connection, [item])
    stored = read_inference(connection, item.inference_id)
    assert stored is not None
    assert {f["value"] for f in stored.feedback} == {"up", "down"}
    assert {f["resolution"] for f in stored.feedback} == {"resolved"}


def test_plans_made_while_a_table_was_tiny_do_not_read_all_of_it_for_each_row_when_it_has_grown(
    database_url: str,
) -> None:
    serving = create_engine(database_url, pool_size=1, seq_scans=False)  # as a server's process has it

    def store(number: int) -> None:
        with serving.begin() as conn:
            results = store_inferences(conn, [spanned(trace_id=str(uuid4())) for _ in range(number)])
        assert {result.status for result in results} == {"stored"}

    def scans() -> int:
        with serving.connect() as conn:
            conn.execute(text("select pg_stat_force_next_flush()"))
        with serving.connect() as conn:
            return conn.execute(
                text(
                    "select sum(seq_scan) from pg_stat_user_tables where relname in ('inference', 'inference_payload')"
                )
            ).scalar_one()

    store(60)
    with serving.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("analyze"))
    for _ in range(8):  # psycopg prepares, and Postgres settles on one plan
        store(1)
    before = scans()
    store(300)
    assert scans() == before
    serving.dispose()
