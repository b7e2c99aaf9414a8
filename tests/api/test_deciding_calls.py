import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest


def decided(client: httpx.Client, query: str, **more: object) -> dict[str, object]:
    answer = client.post("/v1/route", json={"query": query, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_decision_names_route_version_and_reasons(client: httpx.Client) -> None:
    answer = client.post("/v1/route", json={"query": "you charged my card two times", "explore": False})
    body = answer.json()
    assert body["route"] == "billing"
    assert body["segments"][0]["model"] == "billing-slm"
    assert body["segments"][0]["propensity"] == 1.0
    assert body["router_version"] == 1
    assert answer.headers["x-request-id"] == body["inference_id"]
    assert answer.headers["x-trimtab-route"] == "billing"
    assert answer.headers["x-trimtab-version"] == "1"
    assert any("billing" in sentence for sentence in body["explanation"])


def test_keywords_and_pins_come_first(client: httpx.Client) -> None:
    assert decided(client, "what does the invoice number mean?")["segments"][0]["cause"] == "keyword"  # type: ignore[index]
    pinned = decided(client, "where is my parcel", metadata={"route": "account"})
    assert (pinned["route"], pinned["segments"][0]["cause"]) == ("account", "pinned")  # type: ignore[index]


def test_what_no_route_knows_goes_to_the_fallback(client: httpx.Client) -> None:
    body = decided(client, "photosynthesis in deep sea algae, explained with equations")
    assert (body["route"], body["segments"][0]["cause"]) == ("general", "abstained")  # type: ignore[index]


def test_a_question_that_comes_again_is_tried_elsewhere(client: httpx.Client) -> None:
    query = "the invoice has the wrong delivery address"
    first, second = (decided(client, query, session_id="again", explore=False) for _ in range(2))
    assert second["segments"][0]["cause"] == "reasked"  # type: ignore[index]
    assert first["route"] != second["route"]


def test_a_decision_is_logged_with_its_embedding_and_can_be_followed_by_id(client: httpx.Client) -> None:
    inference_id = decided(client, "where is my parcel", session_id="s9", metadata={"end_user": "ann"})["inference_id"]
    deadline = time.monotonic() + 5
    while (answer := client.get(f"/v1/inferences/{inference_id}")).status_code == 404 and time.monotonic() < deadline:
        time.sleep(0.02)
    body = answer.json()
    assert body["route"] == "delivery"
    assert body["payload"]["query"] == "where is my parcel"
    assert body["payload"]["embedding"] == {"bytes": 768}
    assert body["version"] == {**body["version"], "number": 1, "serves_now": True}
    assert "ann" not in answer.text


def test_a_decision_that_is_not_logged_leaves_no_row(client: httpx.Client) -> None:
    inference_id = decided(client, "where is my parcel", log=False)["inference_id"]
    time.sleep(0.3)
    assert client.get(f"/v1/inferences/{inference_id}").status_code == 404


def test_concurrent_queries_each_get_their_own_answer(client: httpx.Client) -> None:
    wanted = {"I forgot my password": "account", "where is my parcel": "delivery", "I want a refund": "billing"}
    queries = list(wanted) * 20
    with ThreadPoolExecutor(16) as pool:
        routes = list(pool.map(lambda q: decided(client, q, explore=False)["route"], queries))
    assert routes == [wanted[q] for q in queries]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": ""}, "invalid_request"),
        ({"query": "x", "unknown-key-of-mine": 1}, "invalid_request"),
        ({"query": "nul\0"}, "invalid_request"),
        ({"query": 7}, "invalid_request"),
        ({"query": "x" * 20_001}, "query_too_long"),
        ({"query": "x", "metadata": {"route": "nowhere"}}, "unknown_route"),
    ],
)
def test_wrong_requests_are_refused_without_an_echo(client: httpx.Client, body: dict[str, object], code: str) -> None:
    answer = client.post("/v1/route", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert "unknown-key-of-mine" not in answer.text
    assert "nowhere" not in answer.text


def test_serving_imports_neither_torch_nor_pandas_nor_scikit_learn() -> None:
    code = (
        "import sys, api.app, api.routes; heavy = {'torch', 'pandas', 'sklearn', 'transformers'} & set(sys.modules);"
        "print(*sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("\n", "")
