"""A version on trial, pins and golden queries through the API, with a real server on a real database."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest

from router.arms import in_share
from router.registry import load, publish
from telemetry.database import create_engine
from telemetry.tables import learner_run

WHY = {"reason": "a test", "actor": "ann"}


@pytest.fixture
def candidate(module_url: str, client: httpx.Client) -> Iterator[int]:
    """A version that sends every question of billing to delivery and the other way round."""
    engine = create_engine(module_url)
    with engine.begin() as conn:
        first = load(conn, 1)
        a, b = (first.parameters.routes.index(name) for name in ("billing", "delivery"))
        owners = first.centroids.owners.copy()
        owners[:, [a, b]] = owners[:, [b, a]]
        swapped = replace(
            first,
            centroids=replace(first.centroids, owners=owners),
            training={"made_for": str(uuid4())},
            number=0,
            fingerprint="",
        )
        number = publish(conn, swapped, actor="test", reason="swapped", parent=1, status="candidate").number
    engine.dispose()
    yield number
    client.post("/v1/router/versions/1/activate", json=WHY)
    wait(lambda: ask(client, "hello there")["router_version"] == 1)


def ask(client: httpx.Client, query: str, *, session: str | None = None, **more: Any) -> dict[str, Any]:
    body = {"query": query, "explore": False, **({"session_id": session} if session else {}), **more}
    return client.post("/v1/route", json=body).json()  # type: ignore[no-any-return]


def wait(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + 10
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def logged(client: httpx.Client, inference_id: str) -> dict[str, Any]:
    def find() -> dict[str, Any] | None:
        answer = client.get(f"/v1/inferences/{inference_id}")
        return answer.json() if answer.status_code == 200 else None

    return wait(find)  # type: ignore[no-any-return]


def begin(client: httpx.Client, number: int, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/router/versions/{number}/trial", json={**WHY, **body})
    assert answer.status_code == 200, answer.text
    wait(lambda: logged(client, ask(client, "hello there")["inference_id"])["shadow_version"] is not None)
    return answer.json()  # type: ignore[no-any-return]


def test_a_canary_decides_for_its_share_and_a_session_keeps_its_version(client: httpx.Client, candidate: int) -> None:
    assert begin(client, candidate, share=0.3)["share"] == 0.3
    due = {f"s-{i}": 1 for i in range(60)}
    due |= {s: candidate for s in due if in_share(s, version=candidate, share=0.3, held_out=False)}
    assert set(due.values()) == {1, candidate}
    answers = {s: ask(client, "where is my parcel", session=s) for s in due}
    assert {s: answer["router_version"] for s, answer in answers.items()} == due
    assert {(a["router_version"], a["route"]) for a in answers.values()} == {(1, "delivery"), (candidate, "billing")}
    assert {s: ask(client, "I forgot my password", session=s)["router_version"] for s in due} == due
    shown = client.get("/v1/router/rollout").json()
    assert (shown["serves"], shown["mode"], shown["trial"]["version"]) == (1, "canary", candidate)
    assert {f["name"] for f in shown["trial"]["findings"]} >= {"all", "billing", "asked again", "errors"}


def test_both_decisions_are_logged_and_whether_they_agree(client: httpx.Client, candidate: int) -> None:
    begin(client, candidate, mode="shadow")
    answer = ask(client, "where is my parcel")
    assert (answer["router_version"], answer["route"]) == (1, "delivery")
    row = logged(client, answer["inference_id"])
    assert (row["shadow_version"], row["shadow_route"], row["shadow_agrees"]) == (candidate, "billing", False)
    same = logged(client, ask(client, "I forgot my password")["inference_id"])
    assert (same["shadow_route"], same["shadow_agrees"]) == ("account", True)
    pinned = ask(client, "where is my parcel", metadata={"route": "account"})
    assert logged(client, pinned["inference_id"])["shadow_version"] is None
    assert client.get("/v1/router/active").json()["beside"]["kind"] == "shadow"


def test_a_promoted_version_serves_all_but_the_hold_out_until_that_is_ended(
    client: httpx.Client, candidate: int
) -> None:
    begin(client, candidate, mode="shadow")
    assert client.post("/v1/router/rollout/promote", json=WHY).json()["version"] == candidate
    held = next(s for s in map(str, range(1_000)) if in_share(s, version=candidate, share=0.02, held_out=True))
    other = next(s for s in map(str, range(1_000)) if not in_share(s, version=candidate, share=0.02, held_out=True))
    wait(lambda: ask(client, "where is my parcel", session=other)["router_version"] == candidate)
    assert ask(client, "where is my parcel", session=held)["router_version"] == 1
    assert client.post("/v1/router/rollout/promote", json=WHY).json()["kind"] == "holdout"
    wait(lambda: ask(client, "where is my parcel", session=held)["router_version"] == candidate)
    again = client.post("/v1/router/rollout/promote", json=WHY)
    assert (again.status_code, again.json()["code"]) == (409, "nothing_on_trial")


def test_a_rollback_ends_a_canary_everywhere(client: httpx.Client, candidate: int) -> None:
    begin(client, candidate, share=0.9)
    tried = next(s for s in map(str, range(99)) if in_share(s, version=candidate, share=0.9, held_out=False))
    assert ask(client, "where is my parcel", session=tried)["router_version"] == candidate
    assert client.post("/v1/router/rollback", json=WHY).json()["version"] == 1
    wait(lambda: ask(client, "where is my parcel", session=tried)["router_version"] == 1)


def test_a_pin_is_made_seen_and_ended(client: httpx.Client, candidate: int) -> None:
    assert client.post("/v1/router/pin", json=WHY).json()["kind"] == "pin"
    refused = client.post(f"/v1/router/versions/{candidate}/trial", json=WHY)
    assert (refused.status_code, refused.json()["code"]) == (409, "pinned")
    both = {"route": "billing", "version": 1}
    for wrong, code in (({"route": "nowhere"}, "unknown_route"), (both, "invalid_request")):
        answer = client.post("/v1/router/pin", json={**WHY, **wrong})
        assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert client.post("/v1/router/pin", json={**WHY, "route": "billing"}).status_code == 200
    shown = client.get("/v1/router/rollout").json()
    assert (shown["pinned"]["actor"], list(shown["pinned_routes"])) == ("ann", ["billing"])
    for body in (WHY, {**WHY, "route": "billing"}):
        assert client.post("/v1/router/unpin", json=body).json()["kind"] == "unpin"
        missing = client.post("/v1/router/unpin", json=body)
        assert (missing.status_code, missing.json()["code"]) == (409, "not_pinned")


def test_golden_queries_are_added_promoted_listed_and_removed(client: httpx.Client) -> None:
    added = client.post("/v1/golden", json={"query": "where is it?", "routes": ["delivery"], "actor": "ann"})
    assert (added.status_code, added.json()["routes"], added.json()["added_by"]) == (201, ["delivery"], "ann")
    unknown = client.post("/v1/golden", json={"query": "where is it?", "routes": ["nowhere"]})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_route")
    asked = ask(client, "my parcel is broken")["inference_id"]
    logged(client, asked)
    early = client.post("/v1/golden", json={"inference_id": asked})
    assert (early.status_code, early.json()["code"]) == (422, "not_golden")
    client.post("/v1/feedback", json={"inference_id": asked, "correction": "delivery"})
    assert client.post("/v1/golden", json={"inference_id": asked}).json()["routes"] == ["delivery"]
    listed = client.get("/v1/golden").json()["data"]
    assert {item["query"] for item in listed} == {"where is it?", "my parcel is broken"}
    for item in listed:
        assert client.delete(f"/v1/golden/{item['golden_id']}").status_code == 204
    gone = client.delete(f"/v1/golden/{listed[0]['golden_id']}")
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown_golden")


def test_a_night_tells_what_became_of_its_version(client: httpx.Client, module_url: str, candidate: int) -> None:
    run_id = uuid4()
    engine = create_engine(module_url)
    with engine.begin() as conn:
        night = {"run_id": run_id, "fencing_token": 1, "status": "finished", "verdict": "canary"}
        conn.execute(learner_run.insert().values(**night, candidate=candidate, report={"sentence": "On trial."}))
    engine.dispose()
    begin(client, candidate, share=0.1)
    client.post("/v1/router/rollout/promote", json=WHY)
    body = client.get(f"/v1/learner/runs/{run_id}").json()
    assert (body["verdict"], body["report"]["sentence"]) == ("canary", "On trial.")
    assert [(a["kind"], a["share"], a["actor"]) for a in body["activations"]] == [
        ("canary", 0.1, "ann"),
        ("publish", 1.0, "ann"),
    ]
