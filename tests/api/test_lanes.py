"""Readers who are too many are told so in time, and hold up nobody else."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from api import lanes
from api.errors import DatabaseBusy
from telemetry.database import create_engine
from tests.api.test_keys import refusal

MANY = httpx.Limits(max_connections=None)


@pytest.fixture
def locked(module_url):
    """A table that readers wait for, until the connection is rolled back."""
    engine = create_engine(module_url)
    with engine.connect() as connection:
        connection.execute(text("lock table mined_failure in access exclusive mode"))
        yield connection
    engine.dispose()


def test_readers_who_wait_hold_up_neither_health_nor_writing_nor_deciding(client, locked):
    def read(_):
        began = time.monotonic()
        return http.get("/v1/failures"), time.monotonic() - began

    with httpx.Client(base_url=client.base_url, timeout=60, limits=MANY) as http, ThreadPoolExecutor(150) as pool:
        reading = pool.map(read, range(150))
        time.sleep(1)
        ready = client.get("/readyz").json()
        golden = {"query": "where is my parcel", "routes": ["delivery"], "actor": "a test"}
        writes = [
            client.post(path, json=body).status_code
            for path, body in (
                ("/v1/inferences", {"inference_id": str(uuid4()), "query": "x"}),
                ("/v1/route", {"query": "where is my parcel"}),
                ("/v1/golden", golden),
            )
        ]
        answers = list(reading)
    assert (ready["status"], ready["database"]) == ("ready", "ok")
    assert writes == [201, 200, 201]
    busy = [seconds for answer, seconds in answers if refusal(answer) == (503, "database_busy")]
    assert len(busy) == 146  # four had their turn
    assert {answer.headers["retry-after"] for answer, _ in answers} == {"1"}
    assert sorted(busy)[len(busy) // 2] < 2
    locked.rollback()
    assert client.get("/v1/failures").status_code == 200


def test_eight_who_read_a_thousand_rows_again_and_again_are_not_refused(client, monkeypatch):
    monkeypatch.setattr(lanes, "TURN_SECONDS", 3.5)  # a third of a second does here; machines differ
    for _ in range(2):
        batch = {"data": [{"query": "x", "session_id": "eight"}] * 500}
        assert client.post("/v1/inferences:batch", json=batch).status_code == 200

    def read(_):
        answer = client.get("/v1/inferences", params={"limit": 1000, "session_id": "eight"})
        return answer.status_code, len(answer.json()["data"])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(40))) == {(200, 1000)}


@pytest.mark.anyio
async def test_what_was_answered_busy_since_no_thread_could_be_had_is_never_done(module_url, monkeypatch):
    engine, done = create_engine(module_url, pool_size=1), []
    lane = lanes.Lane(engine, name="lane", threads=1)

    def no_thread(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(DatabaseBusy):
            await lane.ask(lambda _: done.append("rollback"))
    await lane.ask(lambda _: done.append("another"))
    assert done == ["another"]
    lane.stop()
    engine.dispose()
