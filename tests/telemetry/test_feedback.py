from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from telemetry.feedback import list_feedback, mark_orphans, read_feedback, resolve_waiting, store_feedback
from telemetry.ids import new_id
from telemetry.inferences import store_inferences
from telemetry.records import DecisionRecord, Feedback, Inference, SegmentRecord, StoreResult


def vote(target: str, **changes: object) -> Feedback:
    values: dict[str, object] = {
        "feedback_id": uuid4(),
        "target_kind": "response_id",
        "target_value": target,
        "value": "up",
        "payload_sha256": b"up",
    }
    return Feedback(**{**values, **changes})  # type: ignore[arg-type]


def logged(response_id: str) -> Inference:
    return Inference(inference_id=new_id(), response_id=response_id, payload_sha256=b"x")


def resolution(connection: Connection, item: Feedback) -> str:
    return str(read_feedback(connection, item.feedback_id)[-1]["resolution"])


def statuses(connection: Connection, *items: Feedback) -> list[str]:
    return [result.status for result in store_feedback(connection, items)]


def test_the_same_vote_again_is_a_duplicate_and_another_body_a_conflict(connection: Connection) -> None:
    item = vote("r")
    changed = replace(item, value="down", payload_sha256=b"down")
    assert statuses(connection, item) == ["stored"]
    assert statuses(connection, item, changed) == ["duplicate", "conflict"]
    assert [f["value"] for f in read_feedback(connection, item.feedback_id)] == ["up"]


def test_a_vote_is_revised_and_withdrawn_by_new_revisions(connection: Connection) -> None:
    item = vote("r", segment_index=1)
    revised = replace(item, op="revise", value="down", segment_index=None, payload_sha256=b"down")
    withdrawn = replace(item, op="withdraw", value=None, segment_index=None, payload_sha256=b"")
    assert statuses(connection, item, revised, revised, withdrawn, withdrawn) == [
        *("stored", "stored", "duplicate", "stored", "duplicate")
    ]
    rows = read_feedback(connection, item.feedback_id)
    assert [(f["revision"], f["op"], f["value"], f["segment_index"]) for f in rows] == [
        (1, "create", "up", 1),
        (2, "revise", "down", 1),
        (3, "withdraw", None, 1),
    ]


@pytest.mark.parametrize("op", ["create", "revise"])
def test_the_same_votes_in_two_orders_at_once_wait_for_each_other_and_nothing_fails(
    engine: Engine, stored_in_two_orders: Callable[..., list[list[StoreResult]]], op: str
) -> None:
    votes = [vote("r", feedback_id=UUID(int=i)) for i in (1, 2, 3)]
    changes = {"op": op} if op == "create" else {"op": op, "value": "down", "payload_sha256": b"down"}
    items = [replace(item, **changes) for item in votes]  # type: ignore[arg-type]
    if op == "revise":
        with engine.begin() as conn:
            store_feedback(conn, votes)

    found = stored_in_two_orders(store_feedback, items)
    assert [[result.id.int for result in results] for results in found] == [[1, 2, 3], [3, 2, 1]]
    assert sorted(result.status for results in found for result in results) == ["duplicate"] * 4 + ["stored"] * 2


def test_a_revised_vote_stays_its_users(connection: Connection) -> None:
    item = vote("r", submitter="a hash", annotator_kind="LLM")
    revision = Feedback(
        feedback_id=item.feedback_id, op="revise", value="down", target_kind="response_id", target_value=""
    )
    statuses(connection, item, revision)
    newest = read_feedback(connection, item.feedback_id)[-1]
    assert (newest["value"], newest["submitter"], newest["annotator_kind"]) == ("down", "a hash", "LLM")


def test_revising_what_is_not_there_is_missing_and_changes_nothing(connection: Connection) -> None:
    assert statuses(connection, vote("r", op="revise")) == ["missing"]
    assert list_feedback(connection) == []


def test_an_id_that_names_two_inferences_is_ambiguous(connection: Connection) -> None:
    same = [Inference(inference_id=new_id(), response_id="r", payload_sha256=b"x") for _ in range(2)]
    store_inferences(connection, same)
    (result,) = store_feedback(connection, [vote("r")])
    assert result.resolution == "ambiguous"


def test_orphans_are_listed_and_still_resolved_when_the_target_comes(connection: Connection) -> None:
    item = vote("late")
    store_feedback(connection, [item])
    assert mark_orphans(connection, older_than=timedelta(0)) == 1
    assert [f["feedback_id"] for f in list_feedback(connection, resolution="orphaned")] == [item.feedback_id]
    store_inferences(connection, [Inference(inference_id=new_id(), response_id="late", payload_sha256=b"x")])
    assert [f["resolution"] for f in read_feedback(connection, item.feedback_id)] == ["resolved"]


def test_votes_that_crossed_their_inference_are_found_by_the_sweep(connection: Connection) -> None:
    target = new_id()
    items = [vote("crossed"), vote(str(target), target_kind="inference_id")]
    store_inferences(connection, [Inference(inference_id=target, response_id="crossed", payload_sha256=b"x")])
    store_feedback(connection, items)
    connection.execute(text("update feedback set inference_id = null, resolution = 'pending'"))
    assert resolve_waiting(connection) == 2
    assert {f["inference_id"] for f in list_feedback(connection)} == {target}


def test_a_vote_that_waited_for_an_id_which_came_twice_counts_for_none(connection: Connection) -> None:
    at_once, later, given = vote("twice"), vote("later"), vote("given")
    store_feedback(connection, [at_once, later])
    store_inferences(connection, [logged("twice"), logged("twice"), logged("later"), logged("given")])
    store_feedback(connection, [replace(later, op="revise", value="down", payload_sha256=b"down")])
    assert [resolution(connection, item) for item in (at_once, later)] == ["ambiguous", "resolved"]
    store_feedback(connection, [given])  # there was one when it was given, so that one was meant
    store_inferences(connection, [logged("later"), logged("given")])
    assert [resolution(connection, item) for item in (later, given)] == ["ambiguous", "resolved"]
    assert read_feedback(connection, later.feedback_id)[0]["inference_id"] is None


def test_the_sweep_counts_a_vote_for_none_of_several_inferences(connection: Connection) -> None:
    item = vote("crossed")
    store_inferences(connection, [logged("crossed"), logged("crossed")])
    store_feedback(connection, [item])
    connection.execute(text("update feedback set inference_id = null, resolution = 'pending'"))
    resolve_waiting(connection)
    assert resolution(connection, item) == "ambiguous"


def test_a_vote_on_a_segment_that_the_decision_lacks_is_refused_and_a_repeat_answered_as_before(
    connection: Connection,
) -> None:
    key = new_id()
    early = vote(str(key), target_kind="inference_id", segment_index=2)
    assert statuses(connection, early) == ["stored"]
    parts = tuple(SegmentRecord(segment_index=i, text="part", route="billing") for i in range(2))
    decision = DecisionRecord(route="billing", segments=parts)
    store_inferences(connection, [Inference(inference_id=key, decision=decision, payload_sha256=b"x")])
    judged = [vote(str(key), target_kind="inference_id", segment_index=i) for i in (None, 0, 1, 2)]
    results = store_feedback(connection, judged)
    assert [result.status for result in results] == ["stored", "stored", "stored", "conflict"]
    assert results[-1].message == "The decision has 2 segments, so no segment_index 2."
    assert read_feedback(connection, judged[-1].feedback_id) == []
    assert statuses(connection, early) == ["duplicate"]
    revised = replace(judged[0], op="revise", segment_index=7, payload_sha256=b"other")
    assert statuses(connection, revised) == ["conflict"]
    assert len(read_feedback(connection, judged[0].feedback_id)) == 1
