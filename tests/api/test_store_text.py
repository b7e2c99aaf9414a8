"""TRIMTAB_STORE_TEXT: what stands in the tables as full, redacted and none, and that a night learns without text."""

import itertools
import time
from dataclasses import replace
from uuid import uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from api.recording import Recording
from api.settings import read_settings
from learner.first_version import build_first_version
from learner.nightly import run_night
from router.registry import load, publish
from telemetry.tables import metadata
from tests.api.conftest import running
from tests.learner.world import QUICK, accuracy, fleet, questions

ADDRESS, NUMBER, WORD, PERSON = "ann.lee@example.com", "4111 1111 1111 1111", "quetzalcoatl", "person-of-interest"
SAID = f"where is the {WORD} for {ADDRESS}, paid with {NUMBER}"
REDACTING = Recording(store_text="redacted", key=bytes(32))
REDACTED = f"where is the {WORD} for [redacted], paid with [redacted]"


@pytest.fixture(scope="module")
def built(encoder):
    return replace(build_first_version(fleet(), encoder=encoder), splitter={})


@pytest.fixture
def first(built, engine):
    """Version 1 of the shop, published."""
    with engine.begin() as connection:
        publish(connection, built, actor="a test", reason="the first", parent=None)
    return built


@pytest.fixture
def everything(engine):
    """Returns all rows of all tables as one text."""

    def dump():
        with engine.connect() as connection:
            tables = [connection.execute(text(f"select t::text from {t.name} t")) for t in metadata.sorted_tables]
            return "\n".join(row[0] for rows in tables for row in rows)

    return dump


def served(engine, home, mode):
    return running(read_settings(home=home, store_text=mode), engine.url.render_as_string(hide_password=False))


def say_everything(client):
    """A decision, a split one, a logged event that is split, a conflict and votes, all with texts and people."""
    key = client.post("/v1/route", json={"query": SAID, "metadata": {"end_user": PERSON}}).json()["inference_id"]
    parts = {"segments": [{"segment_index": i, "text": SAID, "route": "billing"} for i in range(2)]}
    event = {"query": SAID, "answer": SAID, "end_user": PERSON, "decision": {"route": "billing"}, **parts}
    logged = client.post("/v1/inferences", json=event)
    batch = client.post("/v1/inferences:batch", json={"data": [event, {**event, "cost": -1}]})
    answered = client.post("/v1/inferences", json={"inference_id": key, "answer": SAID})
    vote = {"feedback_id": str(uuid4()), "inference_id": key, "value": "down", "comment": SAID, "submitter": PERSON}
    voted = client.post("/v1/feedback", json=vote)
    revised = client.put(f"/v1/feedback/{vote['feedback_id']}", json={"value": "up", "comment": SAID})
    statuses = [answer.status_code for answer in (logged, batch, answered, voted, revised)]
    assert statuses in ([201, 207, 201, 201, 200], [201, 207, 201, 202, 200])
    end = time.monotonic() + 10
    while "route" not in client.get(f"/v1/inferences/{key}").json()["sources"]:
        assert time.monotonic() < end
    return client.get(f"/v1/inferences/{key}").json()


@pytest.mark.parametrize(
    ("mode", "kept"), [("full", SAID), ("redacted", REDACTED), ("none", None)], ids=["full", "redacted", "none"]
)
def test_texts_are_kept_as_the_setting_says_and_people_never(engine, first, home, everything, mode, kept):
    with served(engine, home, mode) as address, httpx.Client(base_url=address, timeout=20) as client:
        shown = say_everything(client)
    assert (shown["payload"]["query"], shown["payload"]["answer"], shown["payload"]["redaction"]) == (kept, kept, mode)
    assert shown["payload"]["embedding"] == {"bytes": 768}
    assert [vote["comment"] for vote in shown["feedback"]] == [kept, kept]
    rows = everything()
    assert (ADDRESS in rows, NUMBER in rows, WORD in rows) == (mode == "full", mode == "full", mode != "none")
    assert WORD.encode().hex() not in rows
    assert PERSON not in rows


@pytest.mark.parametrize(
    ("query", "cut", "parts"),
    [
        ("mail ann@example.com, and where is it", "and where", ["mail [redacted], ", "and where is it"]),
        ("für a@x.de und b@x.de und dann los", "und dann", ["für [redacted] und [redacted] ", "und dann los"]),
        ("where is it, and pay 4111 1111 1111 1111", "and pay", ["where is it, ", "and pay [redacted]"]),
        ("pay 4111 1111 1111 1111 now", "1111 1111 now", ["pay [redacted]", "[redacted] now"]),
        ("nothing of anybody, and no number", "and no", ["nothing of anybody, ", "and no number"]),
    ],
)
def test_offsets_of_segments_are_those_of_the_redacted_text(query, cut, parts):
    at = query.index(cut)
    spans = REDACTING.spans(query, [(0, at), (at, len(query))])
    assert [REDACTING.text(query)[slice(*span)] for span in spans] == parts


@pytest.mark.parametrize(
    "said",
    [
        *("4111\u00a01111\u00a01111\u00a01111", "4111 \u2013 1111 \u2013 1111 \u2013 1111", "170 - 123 - 45 - 67"),
        *("1\u2011800\u2011555\u20111234", "+1 (800) 555-1234", "123 - 45 - 6789", "089 / 12 34 56", "123456"),
        *(
            "\u0664\u0661\u0661\u0661 \u0661\u0661\u0661\u0661",
            "\uff10\uff13\uff0d\uff11\uff12\uff13\uff14\uff0d\uff15",
        ),
        *("\u202a0170\u2011123\u202c4567", "4111\u200b1111", "john.doe@localhost", "ann\uff20example.com"),
        *("\u00fc.b+c@\u00e4.example", "\u6f22@\u6f22\u5b57\u3002\u4e2d\u56fd", "o'hara@a-b.co.uk"),
    ],
)
def test_numbers_and_addresses_are_blanked_in_whatever_signs_they_are_written(said):
    assert REDACTING.text(f"call {said} now").replace("\u202a", "").replace("\u202c", "") == "call [redacted] now"


@pytest.mark.parametrize(
    "said",
    [
        *("from 10:30 to 12:45 on 3/4", "from 10.30 - 12.45", "between 2019 - 2021", "12.99 - 15.99 each"),
        *("rooms 101, 102 and 103", "1,000,000 of them", "3 @ 5 each", "version 1.2.3 (4)", "@ann said 12345"),
        *("react@18 is used", "A@B matrix", "main@{1}", "\u4f60\u597d@\u5c0f\u660e\u8bf7\u5e2e\u6211\u67e5\u8be2"),
        "1. 5\n2. 7\n3. 9\n4. 2\n5. 1",
    ],
)
def test_ordinary_numbers_are_kept(said):
    assert REDACTING.text(said) == said


_SIGNS = st.text(st.sampled_from(" \u00a0\u2009-\u2011\u2013/.()\u200b"), max_size=3)
_NUMBERS = st.lists(st.tuples(st.sampled_from("019\u0663\uff17\U0001d7d2"), _SIGNS), min_size=9, max_size=16).map(
    lambda parts: "".join(f"{digit}{sign}" for digit, sign in parts[:-1]) + parts[-1][0]
)
_WORDS = st.text(st.sampled_from("a\u00fc\u6f22\U0001f600, "), max_size=8).map(lambda word: f" {word} and ")


@given(
    pieces=st.lists(st.tuples(_WORDS, st.one_of(_NUMBERS, st.just("\u00fc@\u00e4.\u6f22"))), max_size=5), last=_WORDS
)
def test_offsets_are_exact_whatever_stands_around_and_within_what_is_blanked(pieces, last):
    said = [part for pair in pieces for part in pair] + [last]
    ends = list(itertools.accumulate(len(part) for part in said))
    query, spans = "".join(said), list(zip([0, *ends], ends, strict=False))
    kept = REDACTING.text(query)
    expected = [part for word, _ in pieces for part in (word, "[redacted]")] + [last]
    assert [kept[slice(*span)] for span in REDACTING.spans(query, spans)] == expected
    assert kept == "".join(expected)


def test_segments_of_others_are_kept_with_offsets_of_the_redacted_text_or_none(engine, first, home):
    said = f"ask {ADDRESS} first, then where is my parcel"
    at = said.index("then")
    spans = [(0, at), (at, len(said))]
    parts = [{"segment_index": i, "start": s, "end": e, "route": "billing"} for i, (s, e) in enumerate(spans)]
    event = {"query": said, "decision": {"route": "billing"}, "segments": parts}
    with served(engine, home, "redacted") as address, httpx.Client(base_url=address, timeout=20) as client:
        key = client.post("/v1/inferences", json=event).json()["inference_id"]
        shown = client.get(f"/v1/inferences/{key}").json()
        bare = {"inference_id": str(uuid4()), "segments": parts}
        client.post("/v1/inferences", json=bare)
        without = client.get(f"/v1/inferences/{bare['inference_id']}").json()
    kept = shown["payload"]["query"]
    assert [kept[s["start_offset"] : s["end_offset"]] for s in shown["segments"]] == [
        "ask [redacted] first, ",
        "then where is my parcel",
    ]
    assert {s["start_offset"] for s in without["segments"]} == {None}


@pytest.mark.slow
def test_without_any_text_a_night_still_learns_from_embeddings(engine, first, encoder, home, everything):
    asked = questions()
    with served(engine, home, "none") as address, httpx.Client(base_url=address, timeout=20) as client:
        for i, (query, right) in enumerate(asked):
            decision = client.post("/v1/route", json={"query": query, "session_id": f"s{i}"}).json()
            thumb = "up" if decision["route"] == right else "down"
            vote = {"inference_id": decision["inference_id"], "value": thumb, "submitter": f"user {i % 60}"}
            assert client.post("/v1/feedback", json=vote).status_code in (201, 202)
    assert not [query for query, _ in asked if query in everything()]
    result = run_night(engine, encoder=encoder, settings=QUICK, actor="a test")
    assert result.verdict == "published", result.report
    with engine.connect() as connection:
        learned = load(connection, result.version)
    assert accuracy(learned, encoder, asked) > accuracy(first, encoder, asked) + 0.05
