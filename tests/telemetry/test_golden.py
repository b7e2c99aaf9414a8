from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.feedback import read_feedback, store_feedback
from telemetry.golden import (
    NotGolden,
    UnknownGolden,
    golden,
    golden_lines,
    list_golden,
    parse_golden,
    promoted,
    put_golden,
    remove_golden,
)
from telemetry.ids import new_id
from telemetry.inferences import store_inferences
from telemetry.records import Feedback, Inference, Payload
from telemetry.retention import prune_rows


def test_a_query_is_there_once_and_gets_the_newest_routes(connection):
    put_golden(connection, [golden("where is it", ["delivery"], by="ann")])
    put_golden(connection, [golden("where is it", ["delivery", "billing"], by="bob")])
    (kept,) = list_golden(connection)
    assert (kept.routes, kept.added_by) == (("delivery", "billing"), "bob")
    remove_golden(connection, kept.golden_id)
    with pytest.raises(UnknownGolden):
        remove_golden(connection, kept.golden_id)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)


@given(rows=st.lists(st.tuples(TEXT.filter(str.strip), st.lists(TEXT, min_size=1, max_size=3)), max_size=5))
def test_what_is_written_is_read_again(rows):
    items = [golden(query, routes, by="ann") for query, routes in dict(rows).items()]
    assert parse_golden(golden_lines(items).encode(), source="golden.jsonl", by="ann") == items


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "It is not JSON"),
        ("[]", "must look like"),
        ('{"query": 3, "routes": ["a"]}', "must look like"),
        ('{"query": "q"}', "at least one route"),
        ('{"query": "q", "routes": [1]}', "at least one route"),
        ('{"query": " ", "routes": ["a"]}', "1 to 20,000 characters"),
        (r'{"query": "half \ud800", "routes": ["a"]}', "1 to 20,000 characters"),
        (r'{"query": "q", "routes": ["half \udc00"]}', "at least one route"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(line, why):
    good = '{"query": "q", "routes": ["a"]}\n'
    with pytest.raises(NotGolden, match=f"golden.jsonl, line 3: .*{why}"):
        parse_golden((good + "\n" + line).encode(), source="golden.jsonl", by="ann")


def test_a_file_that_is_not_utf8_is_told_with_its_line():
    lines = b'{"query": "q", "routes": ["a"]}\n{"query": "gr\xfc\xdfe", "routes": ["a"]}'
    with pytest.raises(NotGolden, match=r"golden.jsonl, line 2: It is not UTF-8"):
        parse_golden(lines, source="golden.jsonl", by="ann")


def test_a_file_that_sends_one_query_to_two_places_is_refused():
    lines = [f'{{"query": "q", "routes": ["{route}"]}}' for route in ("a", "a", "b")]
    assert len(parse_golden("\n".join(lines[:2]).encode(), source="golden.jsonl", by="ann")) == 2
    with pytest.raises(NotGolden, match=r"golden.jsonl, line 3: Line 2 sends the same query elsewhere"):
        parse_golden("\n".join(lines).encode(), source="golden.jsonl", by="ann")


def test_a_thumbs_down_becomes_a_golden_query_of_the_route_that_it_named(connection):
    asked = Inference(inference_id=new_id(), source="route", payload=Payload(query="where is my parcel"))
    store_inferences(connection, [asked])
    with pytest.raises(NotGolden, match="name the route"):
        promoted(connection, asked.inference_id, [], by="ann")
    said = {"target_kind": "inference_id", "target_value": str(asked.inference_id), "value": "down"}
    store_feedback(connection, [Feedback(feedback_id=new_id(), correction="delivery", **said)])
    item = promoted(connection, asked.inference_id, [], by="ann")
    assert (item.query, item.routes, item.inference_id) == ("where is my parcel", ("delivery",), asked.inference_id)
    assert promoted(connection, asked.inference_id, ["billing"], by="ann").routes == ("billing",)
    with pytest.raises(NotGolden, match="no such inference"):
        promoted(connection, new_id(), ["billing"], by="ann")


def judged(connection, **more):
    asked = Inference(inference_id=new_id(), source="route", payload=Payload(query="where is my parcel"))
    store_inferences(connection, [asked])
    target = {"target_kind": "inference_id", "target_value": str(asked.inference_id)}
    vote = Feedback(feedback_id=new_id(), value="down", correction="delivery", payload_sha256=b"1", **target, **more)
    store_feedback(connection, [vote])
    return asked, vote


@pytest.mark.parametrize(
    "change", [{"op": "withdraw", "value": None}, {"op": "revise", "value": "up"}, {"op": "revise", "correction": "a"}]
)
def test_a_golden_query_of_a_correction_holds_as_long_as_the_correction(connection, change):
    asked, vote = judged(connection)
    put_golden(connection, [promoted(connection, asked.inference_id, [], by="ann")])
    assert [item.feedback_id for item in list_golden(connection)] == [vote.feedback_id]
    store_feedback(connection, [replace(vote, **{"correction": None, **change}, payload_sha256=b"2")])
    assert list_golden(connection) == []
    store_feedback(connection, [replace(vote, op="revise", payload_sha256=b"3")])  # said again
    assert len(list_golden(connection)) == 1
    put_golden(connection, [promoted(connection, asked.inference_id, ["delivery"], by="ann")])  # now Ann says so
    store_feedback(connection, [replace(vote, op="withdraw", value=None, correction=None, payload_sha256=b"4")])
    assert [item.feedback_id for item in list_golden(connection)] == [None]


def test_a_correction_that_was_withdrawn_says_no_more_where_a_question_belongs(connection):
    asked, vote = judged(connection)
    store_feedback(connection, [replace(vote, op="withdraw", value=None, correction=None, payload_sha256=b"2")])
    with pytest.raises(NotGolden, match="name the route"):
        promoted(connection, asked.inference_id, [], by="ann")


def test_a_golden_query_outlives_its_correction_in_the_log(connection):
    asked, vote = judged(connection)
    put_golden(connection, [promoted(connection, asked.inference_id, [], by="ann")])
    prune_rows(connection, before=datetime.now(UTC) + timedelta(days=1), batch=10)
    assert read_feedback(connection, vote.feedback_id) == []
    assert len(list_golden(connection)) == 1
