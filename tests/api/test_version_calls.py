from dataclasses import replace
from datetime import UTC, datetime

import httpx
import numpy as np
import pytest
from sqlalchemy import Engine

from router.registry import load, publish
from telemetry.database import create_engine


def published(url: str) -> int:
    engine: Engine = create_engine(url)
    with engine.begin() as conn:
        version = load(conn, 1)
        other = replace(version, training={"made_from": datetime.now(UTC).isoformat()}, number=0, fingerprint="")
        number = publish(conn, other, actor="test", reason="a better one", parent=1).number
    engine.dispose()
    return number


def wait_for(client: httpx.Client, number: int) -> int:
    for _ in range(300):
        found = client.post("/v1/route", json={"query": "hello there", "log": False}).json()["router_version"]
        if found == number:
            return int(found)
    return int(found)


def test_a_published_version_serves_and_a_rollback_brings_the_old_one_back(
    client: httpx.Client, module_url: str
) -> None:
    before = datetime.now(UTC).isoformat()
    number = published(module_url)
    assert wait_for(client, number) == number
    answer = client.post("/v1/router/rollback", json={"reason": "worse on travel", "actor": "ann"})
    assert (answer.status_code, answer.json()["version"], answer.json()["kind"]) == (200, 1, "rollback")
    assert wait_for(client, 1) == 1
    newest = client.get("/v1/router/activations").json()["data"][0]
    assert (newest["actor"], newest["reason"], newest["version"]) == ("ann", "worse on travel", 1)
    assert client.get("/v1/router/active").json()["version"] == 1
    assert client.get("/v1/router/active", params={"at": before}).json()["version"] == 1
    activated = client.post(f"/v1/router/versions/{number}/activate", json={"reason": "it was fine"})
    assert activated.status_code == 200
    assert wait_for(client, number) == number


def test_a_switch_that_somebody_else_came_before_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/router/rollback", json={"reason": "x", "if_seq": 0})
    assert (answer.status_code, answer.json()["code"]) == (409, "stale_activation")


def test_a_version_shows_its_report_and_its_difference_to_its_parent(client: httpx.Client, module_url: str) -> None:
    number = published(module_url)
    body = client.get(f"/v1/router/versions/{number}").json()
    assert (body["parent"], body["difference"]["before"], body["difference"]["after"]) == (1, 1, number)
    assert {m["degrees"] for m in body["difference"]["movements"]} == {0.0}
    listed = client.get("/v1/router/versions").json()["data"]
    assert [v["number"] for v in listed] == sorted((v["number"] for v in listed), reverse=True)


def test_a_version_tells_which_logged_queries_go_elsewhere_than_by_its_parent(
    client: httpx.Client, module_url: str
) -> None:
    text = "where is my parcel, it should be here by now"
    stayed = client.post("/v1/route", json={"query": text}).json()
    assert stayed["route"] != "account"
    engine: Engine = create_engine(module_url)
    with engine.begin() as conn:
        version = load(conn, 1)
        owners = np.zeros_like(version.centroids.owners)
        owners[:, version.parameters.routes.index("account")] = 1.0  # everything belongs to one route
        other = replace(version, centroids=replace(version.centroids, owners=owners), number=0, fingerprint="")
        number = publish(conn, other, actor="test", reason="all to one", parent=1).number
    engine.dispose()
    found = wait_for_change(client, number, text)
    assert (found["before"], found["after"]) == (stayed["route"], "account")
    assert client.post("/v1/router/rollback", json={"reason": "done", "to": 1}).status_code == 200


def wait_for_change(client: httpx.Client, number: int, text: str) -> dict[str, object]:
    for _ in range(100):  # a decision is logged after it was answered
        changed = client.get(f"/v1/router/versions/{number}").json()["difference"]["changed_queries"]
        assert changed["of"] >= changed["total"]
        for query in changed["queries"]:
            if query["text"] == text:
                return dict(query)
    raise AssertionError(changed)


def test_health_readiness_metrics_and_openapi_answer(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"], ready.json()["database"]) == (200, "ready", "ok")
    assert "trimtab_router_version" in client.get("/metrics").text
    document = client.get("/openapi.json").json()
    for path in ("/v1/route", "/v1/inferences", "/v1/feedback", "/v1/router/rollback"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert content["example"], path
        name = content["schema"]["$ref"].rsplit("/", 1)[1]
        assert name in document["components"]["schemas"]


@pytest.mark.parametrize("path", ["/v1/router/active?at=2020-01-99", "/v1/router/versions/seven-99", "/v1/feedback/99"])
def test_a_wrong_path_or_query_string_is_told_in_the_one_shape_without_an_echo(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["errors"][0]["problem"]
    assert "99" not in answer.text
