import json
import random
import time
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import insert

from api.recording import Recording
from api.schemas import FeedbackEvent
from api.settings import Settings
from telemetry.database import create_engine
from telemetry.feedback import store_feedback
from telemetry.tables import learner_run, mined_failure

EVENT = {"query": "where is my parcel", "answer": "On its way.", "decision": {"route": "delivery"}, "output_tokens": 5}


def log(client: httpx.Client, **changes: object) -> httpx.Response:
    return client.post("/v1/inferences", json={**EVENT, **changes})


def test_the_same_event_again_is_answered_200_and_another_body_422(client: httpx.Client) -> None:
    key = str(uuid4())
    assert [log(client, inference_id=key).status_code for _ in range(3)] == [201, 200, 200]
    conflict = log(client, inference_id=key, output_tokens=6)
    assert (conflict.status_code, conflict.json()["code"]) == (422, "conflict")
    assert client.get(f"/v1/inferences/{key}").json()["output_tokens"] == 5


def test_an_event_that_only_its_span_names_is_one_row_and_answered_with_one_id(client: httpx.Client) -> None:
    span = {"trace_id": str(uuid4()), "span_id": "1"}
    answers = [log(client, **span) for _ in range(3)]
    assert [(a.status_code, a.json()["status"]) for a in answers] == [(201, "stored")] + [(200, "duplicate")] * 2
    assert len({a.json()["inference_id"] for a in answers}) == 1
    batch = client.post("/v1/inferences:batch", json={"data": [{**EVENT, **span}, {**EVENT, **span, "cost": 1}]})
    first, second = batch.json()["results"]
    assert (first["status"], first["id"]) == (200, answers[0].json()["inference_id"])
    assert (second["status"], second["message"]) == (422, "another inference has this trace_id and span_id")


def test_decision_outcome_and_feedback_of_one_question_come_together(client: httpx.Client) -> None:
    decision = client.post("/v1/route", json={"query": "I forgot my password"}).json()
    key = decision["inference_id"]
    logged = client.post("/v1/inferences", json={"inference_id": key, "output_tokens": 9, "finish_reason": "stop"})
    assert logged.status_code == 201
    judged = client.post("/v1/feedback", json={"inference_id": key, "value": "up", "submitter": "bob"})
    assert (judged.status_code, judged.json()["resolution"]) in {(201, "resolved"), (202, "pending")}
    time.sleep(0.3)
    body = client.get(f"/v1/inferences/{key}").json()
    assert (body["route"], body["output_tokens"], body["feedback"][0]["value"]) == (decision["route"], 9, "up")
    assert sorted(body["sources"]) == ["inferences", "route"]


@pytest.mark.parametrize("bad", [1, 50, 99])
def test_a_batch_keeps_its_order_and_its_good_items(client: httpx.Client, bad: int) -> None:
    spoiled = set(random.Random(bad).sample(range(100), bad))
    items = [{**EVENT, "cost": -1} if i in spoiled else {**EVENT, "inference_id": str(uuid4())} for i in range(100)]
    answer = client.post("/v1/inferences:batch", json={"data": items})
    body = answer.json()
    assert answer.status_code == 207
    assert (body["accepted"], body["duplicates"], body["rejected"]) == (100 - bad, 0, bad)
    assert {r["index"] for r in body["results"] if r["status"] == 422} == spoiled
    again = client.post("/v1/inferences:batch", json={"data": [i for n, i in enumerate(items) if n not in spoiled]})
    assert (again.status_code, again.json()["duplicates"]) == (200, 100 - bad)


def test_feedback_before_its_inference_waits_is_revised_and_withdrawn(client: httpx.Client) -> None:
    response_id, feedback_id = f"r-{uuid4()}", str(uuid4())
    vote = {"feedback_id": feedback_id, "response_id": response_id, "value": "up"}
    first = client.post("/v1/feedback", json=vote)
    assert (first.status_code, first.json()["resolution"]) == (202, "pending")
    assert client.post("/v1/feedback", json=vote).status_code == 200
    assert client.post("/v1/feedback", json={**vote, "value": "down"}).status_code == 422
    assert log(client, response_id=response_id).status_code == 201
    revised = client.put(f"/v1/feedback/{feedback_id}", json={"value": "down", "correction": "billing"})
    assert (revised.status_code, revised.json()["revision"], revised.json()["resolution"]) == (200, 2, "resolved")
    assert client.delete(f"/v1/feedback/{feedback_id}").json()["revision"] == 3
    revisions = client.get(f"/v1/feedback/{feedback_id}").json()["revisions"]
    assert [(r["op"], r["value"], r["correction"]) for r in revisions] == [
        ("create", "up", None),
        ("revise", "down", "billing"),
        ("withdraw", None, None),
    ]


def test_a_vote_on_a_segment_that_the_decision_lacks_is_refused_in_a_sentence(client: httpx.Client) -> None:
    key = log(client).json()["inference_id"]
    refused = client.post("/v1/feedback", json={"inference_id": key, "value": "up", "segment_index": 1})
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_segment")
    assert refused.json()["detail"] == "The decision has 1 segment, so no segment_index 1."
    kept = client.post("/v1/feedback", json={"inference_id": key, "value": "up", "segment_index": 0})
    assert kept.status_code == 201
    moved = {"value": "up", "segment_index": 1}
    assert client.put(f"/v1/feedback/{kept.json()['feedback_id']}", json=moved).json()["code"] == "unknown_segment"
    token = client.post("/v1/feedback-tokens", json={"inference_id": key}).json()["feedback_token"]
    by_token = {"inference_id": key, "value": "up", "segment_index": 1}
    answer = client.post("/v1/feedback", json=by_token, headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_segment")


def test_a_vote_for_a_route_that_has_left_may_be_sent_again(
    client: httpx.Client, module_url: str, app_settings: Settings
) -> None:
    key = log(client).json()["inference_id"]
    vote = {"feedback_id": str(uuid4()), "inference_id": key, "correction": "a route of before"}
    refused = client.post("/v1/feedback", json=vote)
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_route")
    recording = Recording(store_text="full", key=app_settings.hash_key())
    engine = create_engine(module_url)
    with engine.begin() as conn:  # as a server stored it that still had the route
        store_feedback(conn, [recording.feedback(FeedbackEvent.model_validate_json(json.dumps(vote)))])
    engine.dispose()
    again = client.post("/v1/feedback", json=vote)
    assert (again.status_code, again.json()["status"]) == (200, "duplicate")
    other = client.post("/v1/feedback", json={**vote, "correction": "another"})
    assert (other.status_code, other.json()["code"]) == (422, "unknown_route")


def test_unknown_things_are_404_in_one_sentence(client: httpx.Client) -> None:
    for path in ("inferences", "feedback", "learner/runs"):
        answer = client.get(f"/v1/{path}/{uuid4()}")
        assert (answer.status_code, answer.json()["status"]) == (404, 404), path
    assert client.put(f"/v1/feedback/{uuid4()}", json={"value": "up"}).status_code == 404
    assert client.get("/v1/router/versions/99").json()["code"] == "unknown_version"
    assert client.get("/v1/nothing").json()["code"] == "not_found"


def test_every_event_is_accounted_for(client: httpx.Client) -> None:
    key = str(uuid4())
    log(client, inference_id=key)
    log(client, inference_id=key)
    log(client, inference_id=key, output_tokens=1)
    time.sleep(0.3)
    lines = dict(
        line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line.startswith("trimtab_events_")
    )
    count = {name.removeprefix("trimtab_events_"): float(value) for name, value in lines.items()}
    accounted = sum(count[name] for name in ("stored", "duplicate", "conflict", "missing", "quarantined", "failed"))
    assert count["received"] == accounted + count["waiting"]
    assert count["duplicate"] >= 1
    assert count["conflict"] >= 1


def test_lists_are_paged_newest_first(client: httpx.Client) -> None:
    for _ in range(3):
        log(client)
    first = client.get("/v1/inferences", params={"limit": 2}).json()
    assert (first["object"], len(first["data"]), first["has_more"]) == ("list", 2, True)
    second = client.get("/v1/inferences", params={"limit": 2, "after": first["last_id"]}).json()
    assert second["first_id"] < first["last_id"]


def pages(client: httpx.Client, path: str, **params: object) -> list[dict[str, object]]:
    """All rows of a list, turned one page after the other."""
    rows: list[dict[str, object]] = []
    after: dict[str, object] = {}
    while True:
        page = client.get(path, params={**params, **after}).raise_for_status().json()
        rows += page["data"]
        if not page["has_more"]:
            return rows
        after = {"after": page["last_id"]}


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_turning_pages_shows_every_revision_once(client: httpx.Client, limit: int) -> None:
    key = log(client).json()["inference_id"]
    for _ in range(2):
        vote = client.post("/v1/feedback", json={"inference_id": key, "value": "down"}).json()["feedback_id"]
        for comment in "abc":
            assert client.put(f"/v1/feedback/{vote}", json={"value": "up", "comment": comment}).status_code == 200
    shown = [(row["feedback_id"], row["revision"]) for row in pages(client, "/v1/feedback", limit=limit)]
    assert shown == sorted(set(shown), reverse=True)
    assert [revision for feedback, revision in shown if feedback == vote] == [4, 3, 2, 1]
    behind = client.get("/v1/feedback", params={"after": vote, "limit": 1}).json()
    assert behind["data"][0]["feedback_id"] < vote
    assert client.get("/v1/feedback", params={"after": f"{vote}:x"}).status_code == 422


def test_turning_pages_shows_every_failure_of_one_night(client: httpx.Client, module_url: str) -> None:
    nights, key = [uuid4(), uuid4()], log(client).json()["inference_id"]
    engine = create_engine(module_url)
    with engine.begin() as conn:
        for night in nights:
            conn.execute(insert(learner_run).values(run_id=night, fencing_token=1, status="finished"))
            failure = {"run_id": night, "inference_id": UUID(key), "evidence": {}, "weight": 1.0}
            conn.execute(
                insert(mined_failure), [{**failure, "kind": kind} for kind in ("reask", "reask", "correction")]
            )
    engine.dispose()
    whole = pages(client, "/v1/failures", limit=1)
    assert [(row["run_id"], row["kind"]) for row in whole] == [
        (str(nights[1]), kind) for kind in ("correction", "reask", "reask")
    ]
    assert pages(client, "/v1/failures", limit=2, run_id=str(nights[0]), kind="reask")[-1]["run_id"] == str(nights[0])
    assert len(pages(client, "/v1/failures", limit=1, run_id=str(nights[0]), kind="reask")) == 2
