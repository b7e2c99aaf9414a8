"""The bounded queue: what it refuses, when, and what is told."""

import asyncio
import threading
import time
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, event, func, select, text

from api.errors import Overloaded
from api.intake import Intake
from telemetry.database import DatabaseUnavailable
from telemetry.inferences import store_inferences
from telemetry.records import Inference
from telemetry.tables import inference


def some(count):
    return [Inference(inference_id=uuid4(), payload_sha256=b"x") for _ in range(count)]


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def stuck(engine: Engine):
    """Holds every transaction back until it is released."""
    release = threading.Event()
    event.listen(engine, "begin", lambda _conn: release.wait(20))
    yield release
    release.set()


def stored(engine):
    with engine.connect() as conn:
        return conn.execute(select(func.count()).select_from(inference)).scalar_one()


@pytest.mark.fault("4x overload")
@pytest.mark.anyio
async def test_a_full_queue_refuses_at_once_and_stores_what_it_took(engine, stuck):
    intake = Intake(engine, most_items=10, most_bytes=10_000, flushers=1)
    intake.start()
    first = asyncio.create_task(intake.store(some(4), size=100))
    while not intake.counts["received"] or intake.waiting:
        await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(intake.store(some(4), size=100)) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert intake.room < 1
    with pytest.raises(Overloaded):
        async with intake.turn():
            pytest.fail("it was let in")
    with pytest.raises(Overloaded):
        await intake.store(some(4), size=100)
    stuck.set()
    results = await asyncio.gather(first, *waiting)
    intake.stop()
    assert [r.status for each in results for r in each] == ["stored"] * 12
    assert (stored(engine), intake.counts["received"], intake.counts["shed"]) == (12, 12, 8)


@pytest.mark.anyio
async def test_many_requests_at_a_time_share_commits_and_each_gets_its_own_answer(engine):
    commits = []
    event.listen(engine, "commit", commits.append)
    intake = Intake(engine, most_items=5000, most_bytes=10**7)
    intake.start()
    batches = [some(1 + i % 3) for i in range(300)]
    results = await asyncio.gather(*(intake.store(batch, size=100) for batch in batches))
    intake.stop()
    assert [[r.id for r in each] for each in results] == [[e.inference_id for e in batch] for batch in batches]
    assert stored(engine) == sum(len(batch) for batch in batches)
    assert len(commits) < 30


@pytest.mark.anyio
async def test_what_nobody_waits_for_shares_a_commit_and_is_stored_in_a_moment(engine):
    commits = []
    event.listen(engine, "commit", commits.append)
    intake = Intake(engine, most_items=5000, most_bytes=10**7)
    intake.start()
    for decision in some(30):
        assert intake.store_later(decision, size=100)
        await asyncio.sleep(0.001)
    began = time.monotonic()
    while intake.counts["stored"] < 30:
        assert time.monotonic() - began < 5
        await asyncio.sleep(0.01)
    assert len(commits) <= 2
    assert intake.store_later(some(1)[0], size=100)
    await intake.store(some(1), size=100)
    assert intake.counts["stored"] == 32  # it went with what somebody waited for
    intake.stop()
    assert stored(engine) == 32


@pytest.mark.anyio
async def test_a_queue_half_full_of_decisions_is_stored_at_once(engine, monkeypatch):
    monkeypatch.setattr("api.intake.LATER_SECONDS", 60)
    intake = Intake(engine, most_items=10, most_bytes=10**7)
    intake.start()
    for decision in some(5):
        assert intake.store_later(decision, size=100)
    began = time.monotonic()
    while intake.counts["stored"] < 5:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.01)
    intake.stop()


@pytest.mark.anyio
async def test_what_waits_when_the_server_stops_is_stored(engine, stuck):
    intake = Intake(engine, most_items=5000, most_bytes=10**7, flushers=1)
    intake.start()
    asked = [asyncio.create_task(intake.store(some(1), size=100)) for _ in range(50)]
    await asyncio.sleep(0.05)
    stuck.set()
    await asyncio.to_thread(intake.stop)
    assert all(each[0].status == "stored" for each in await asyncio.gather(*asked))
    assert stored(engine) == 50


@pytest.mark.anyio
async def test_an_event_that_nobody_expects_fails_alone_and_the_flusher_lives_on(engine):
    intake = Intake(engine, most_items=10, most_bytes=10_000, flushers=1)
    intake.start()
    odd = Inference(inference_id=uuid4(), payload_sha256=b"x", session_id=object())
    with pytest.raises(DatabaseUnavailable):
        await intake.store([odd], size=100)
    (result,) = await intake.store(some(1), size=100)
    intake.stop()
    assert (result.status, intake.counts["failed"], intake.stuck) == ("stored", 1, False)


@pytest.mark.anyio
async def test_a_value_that_postgres_refuses_harms_nobody_else_in_its_flush(engine, stuck):
    statements = []
    event.listen(engine, "savepoint", lambda _conn, name: statements.append(name))
    intake = Intake(engine, most_items=100, most_bytes=100_000, flushers=1)
    intake.start()
    spoiled = Inference(inference_id=uuid4(), payload_sha256=b"x", response_id="nul\0")
    asked = [asyncio.create_task(intake.store(each, size=100)) for each in (some(3), [spoiled], some(2))]
    stuck.set()
    results = await asyncio.gather(*asked)
    assert [[r.status for r in each] for each in results] == [["stored"] * 3, ["quarantined"], ["stored"] * 2]
    assert stored(engine) == 5
    statements.clear()
    assert [r.status for r in await intake.store(some(2), size=100)] == ["stored"] * 2
    assert not statements, "what is in order needs no savepoint: two more exchanges with the server for each flush"
    intake.stop()


@pytest.mark.anyio
async def test_a_flush_that_postgres_ends_for_a_deadlock_is_stored_once_more(engine, until_waiting):
    first, second = (Inference(inference_id=UUID(int=i), payload_sha256=b"x") for i in (1, 2))
    intake = Intake(engine, most_items=10, most_bytes=10_000, flushers=1)
    intake.start()
    with engine.begin() as other:
        other.execute(text("set local deadlock_timeout = '1min'"))  # so that it is the flush that is ended
        store_inferences(other, [second])
        asked = asyncio.create_task(intake.store([first, second], size=100))
        await asyncio.to_thread(until_waiting, 1)
        await asyncio.to_thread(store_inferences, other, [first])
    assert [result.status for result in await asked] == ["duplicate"] * 2
    intake.stop()
    assert (stored(engine), intake.counts["failed"]) == (2, 0)
