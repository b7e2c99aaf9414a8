"""Postgres hung or dead beneath the running server: 503 in a sentence, decisions go on, nothing acknowledged goes."""

import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from learner.first_version import build_first_version
from router.registry import publish
from telemetry import embedded_postgres, migrate
from telemetry.database import create_engine
from tests.api.conftest import running

KEY = str(uuid4())
EVENT = {"query": "where is my parcel", "decision": {"route": "delivery"}}
CALLS = (
    ("POST", "/v1/inferences", EVENT),
    ("POST", "/v1/inferences:batch", {"data": [EVENT, EVENT]}),
    ("POST", "/v1/feedback", {"inference_id": KEY, "value": "up"}),
    ("PUT", f"/v1/feedback/{KEY}", {"value": "up"}),
    ("DELETE", f"/v1/feedback/{KEY}", None),
    ("POST", "/v1/router/versions/1/activate", {"reason": "a test"}),
    ("POST", "/v1/router/rollback", {"reason": "a test"}),
    ("POST", "/v1/learner/runs", {}),
    *(("GET", f"/v1/{path}", None) for path in ("inferences", f"inferences/{KEY}", "feedback", f"feedback/{KEY}")),
    *(("GET", f"/v1/{path}", None) for path in ("dead-letters", "learner/runs", f"learner/runs/{KEY}", "failures")),
    *(("GET", f"/v1/router/{path}", None) for path in ("versions", "versions/1", "active", "activations")),
)
SECONDS = 8.0  # it is told after four; a slow machine takes its time to say so


@pytest.fixture(scope="module")
def database(tmp_path_factory, fleet, encoder):
    """A database of its own, since it is hung and killed, with version 1."""
    home = tmp_path_factory.mktemp("own")
    server = embedded_postgres.start(home)
    migrate.upgrade(server.url)
    engine = create_engine(server.url)
    with engine.begin() as connection:
        publish(connection, build_first_version(fleet, encoder=encoder), actor="test", reason="fleet", parent=None)
    engine.dispose()
    yield server
    server.stop()
    embedded_postgres.remove(home)


@pytest.fixture(scope="module")
def client(database, app_settings):
    """The real server on that database."""
    with running(app_settings, database.url) as address, httpx.Client(base_url=address, timeout=60) as http:
        yield http


def processes(database):
    pid, _ = embedded_postgres.status(database.home)
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def timed(client, method, path, body):
    began = time.monotonic()
    answer = client.request(method, path, json=body)
    return answer, time.monotonic() - began


def all_at_once(client, calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: timed(client, *call), calls))


def log(client, key):
    return client.post("/v1/inferences", json={**EVENT, "inference_id": key}).status_code


def wait_until_ready(client):
    end = time.monotonic() + 20
    while (answer := client.get("/readyz").json())["status"] != "ready":
        assert time.monotonic() < end, answer
        time.sleep(0.05)


@contextlib.contextmanager
def away(database, how):
    """The database is hung or dead within the block, and back after it."""
    pids = processes(database)
    if how == "dead":
        os.kill(pids[0], signal.SIGKILL)
        database._process.wait(20)
    else:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if how == "dead":
            assert database.restart_if_dead()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def check_what_it_says(client):
    for (method, path, _), (answer, seconds) in zip(CALLS, all_at_once(client, CALLS), strict=True):
        assert (path, answer.status_code, answer.headers.get("retry-after")) == (path, 503, "1"), (method, answer.text)
        assert seconds < SECONDS, (method, path, seconds)
        assert answer.json()["detail"][-1] in ".L", answer.text
        assert "sqlalche" not in answer.text
    ready, seconds = timed(client, "GET", "/readyz", None)
    assert (ready.status_code, ready.json()["status"], ready.json()["database"]) == (200, "degraded", "unavailable")
    assert ready.json()["problem"].startswith("The database cannot be reached")
    assert seconds < SECONDS
    decided, seconds = timed(client, "POST", "/v1/route", {"query": "where is my parcel", "explore": False})
    assert (decided.status_code, decided.json()["route"]) == (200, "delivery")
    assert seconds < 1
    assert client.get("/healthz").status_code == client.get("/metrics").status_code == 200


@pytest.mark.fault("postgres hung")
@pytest.mark.slow
@pytest.mark.parametrize("how", ["hung", "dead"])
def test_without_its_database_every_call_says_so_in_time_and_goes_on_when_it_is_back(client, database, how):
    wait_until_ready(client)
    acknowledged, unsure = [str(uuid4()) for _ in range(20)], str(uuid4())
    assert {log(client, key) for key in acknowledged} == {201}
    with away(database, how):
        check_what_it_says(client)
        assert log(client, unsure) == 503
    wait_until_ready(client)
    assert log(client, unsure) in (200, 201)  # sending it again is safe
    assert {client.get(f"/v1/inferences/{key}").status_code for key in (*acknowledged, unsure)} == {200}
    harmless = [call for call in CALLS if call[0] == "GET" or call[1].startswith("/v1/inferences")]
    assert {answer.status_code for answer, _ in all_at_once(client, harmless)} <= {200, 201, 404}
    activations = client.get("/v1/router/activations").json()["data"]
    assert [a["reason"] for a in activations] == ["fleet"]  # what was answered 503 was not done


@pytest.mark.slow
def test_a_server_whose_database_is_hung_can_still_be_stopped(client, database, app_settings):
    wait_until_ready(client)
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(running(app_settings, database.url))
        with away(database, "hung"):
            assert httpx.post(f"{address}/v1/inferences", json=EVENT, timeout=60).status_code == 503
            began = time.monotonic()
            stack.close()
            assert time.monotonic() - began < 20
