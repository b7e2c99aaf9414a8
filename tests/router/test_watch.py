import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, insert, text

from router.registry import activate, publish, rollback
from router.rollout import start_trial
from router.version_cache import read_cache
from router.watch import RouterWatch
from telemetry.tables import router_activation, router_artifact
from tests.router.samples import build_version

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


def put(engine: Engine, seed: int, **rest: Any) -> int:
    with engine.begin() as connection:
        version = replace(build_version(seed=seed), **rest)
        return publish(connection, version, actor="a", reason="b", parent=None).number


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), timeout=60))


async def until(condition: Callable[[], bool], *, within: float) -> float:
    start = time.perf_counter()
    while not condition():
        assert time.perf_counter() - start < within, "it took too long"
        await asyncio.sleep(0.002)
    return time.perf_counter() - start


def serving(watch: RouterWatch) -> int | None:
    return None if watch.current is None else watch.current.version.number


def watching(url: str, home: Path, **rest: Any) -> RouterWatch:
    return RouterWatch(url, home=home, **rest)


def test_a_publication_and_a_rollback_reach_every_process_at_once(engine, database_url, tmp_path):
    async def work() -> None:
        watches = [watching(database_url, tmp_path / str(i), poll_seconds=30) for i in range(2)]
        put(engine, 1)
        for watch in watches:
            await watch.start()
            assert serving(watch) == 1
        await asyncio.sleep(0.3)
        put(engine, 2)
        await until(lambda: all(serving(watch) == 2 for watch in watches), within=1.0)
        with engine.begin() as connection:
            rollback(connection, actor="a", reason="b")
        await until(lambda: all(serving(watch) == 1 for watch in watches), within=1.0)
        for watch in watches:
            await watch.stop()

    run(work)


@pytest.mark.fault("notification lost")
def test_a_lost_notification_is_found_by_polling(engine, database_url, tmp_path):
    async def work() -> None:
        put(engine, 1)
        put(engine, 2)
        watch = watching(database_url, tmp_path, poll_seconds=0.2)
        await watch.start()
        silent = {"version": 1, "kind": "rollback", "actor": "a", "reason": "b", "hash": "c"}
        with engine.begin() as connection:
            connection.execute(insert(router_activation).values(silent))
        await until(lambda: serving(watch) == 1, within=2)
        await watch.stop()

    run(work)


def test_a_watch_whose_connection_was_cut_comes_back(engine, database_url, tmp_path):
    async def work() -> None:
        put(engine, 1)
        watch = watching(database_url, tmp_path, poll_seconds=0.2)
        await watch.start()
        await asyncio.sleep(0.1)
        others = "select pg_terminate_backend(pid) from pg_stat_activity"
        others += " where datname = current_database() and pid <> pg_backend_pid()"
        with engine.connect() as connection:
            connection.execute(text(others))
        engine.dispose()
        put(engine, 2)
        await until(lambda: serving(watch) == 2 and watch.problem is None, within=10)
        await watch.stop()

    run(work)


@pytest.mark.fault("corrupt part")
def test_a_damaged_version_is_not_swapped_in(engine, database_url, tmp_path):
    async def work() -> None:
        put(engine, 1)
        watch = watching(database_url, tmp_path, poll_seconds=0.1)
        await watch.start()
        with engine.begin() as connection:
            number = publish(connection, build_version(seed=2), actor="a", reason="b", parent=1).number
            flip = "update router_artifact set bytes = set_byte(bytes, 9, 255 - get_byte(bytes, 9)) where version = :n"
            connection.execute(text(flip), {"n": number})
        await until(lambda: watch.problem is not None, within=5)
        assert serving(watch) == 1
        assert "Version 2 is not served" in watch.problem
        with engine.begin() as connection:
            activate(connection, 1, kind="rollback", actor="a", reason="b")
        await until(lambda: watch.problem is None, within=5)
        assert read_cache(tmp_path / "cache" / "router-version").number == 1
        await watch.stop()

    run(work)


def test_what_could_not_be_cached_is_cached_once_it_can_be(engine, database_url, tmp_path):
    async def work() -> None:
        heard: list[str] = []
        put(engine, 1)
        path = tmp_path / "cache" / "router-version"
        path.mkdir(parents=True)
        watch = watching(database_url, tmp_path, poll_seconds=0.05, announce=heard.append)
        await watch.start()
        assert "could not be cached" in watch.problem
        await asyncio.sleep(1)  # is tried again, but neither told again nor leaves drafts behind
        assert sum("could not be cached" in sentence for sentence in heard) == 1
        assert [file.name for file in path.parent.iterdir()] == ["router-version"]
        path.rmdir()
        await until(lambda: watch.problem is None, within=30)
        assert read_cache(path).number == 1
        await watch.stop()

    run(work)


@pytest.mark.fault("corrupt part")
@pytest.mark.parametrize("status", ["active", "candidate"])
def test_a_version_whose_missing_part_comes_back_is_taken_without_another_activation(
    engine, database_url, tmp_path, status
):
    async def work() -> None:
        put(engine, 1)
        watch = watching(database_url, tmp_path, poll_seconds=0.05)
        await watch.start()
        with engine.begin() as conn:
            publish(conn, build_version(seed=2), actor="a", reason="b", parent=1, status=status)
            if status == "candidate":
                start_trial(conn, 2, mode="canary", share=0.05, actor="a", reason="b")
            parts = conn.execute(
                delete(router_artifact).where(router_artifact.c.version == 2).returning(router_artifact)
            )
            parts = parts.mappings().all()
        await until(lambda: watch.problem is not None, within=5)
        assert (serving(watch), watch.arms.side) == (1, None)
        with engine.begin() as conn:
            conn.execute(insert(router_artifact), [dict(part) for part in parts])
        await until(lambda: watch.problem is None, within=30)
        taken = watch.current if status == "active" else watch.arms.side
        assert taken.version.number == 2
        await watch.stop()

    run(work)


def test_a_version_of_another_encoder_is_not_swapped_in(engine, database_url, tmp_path):
    async def work() -> None:
        put(engine, 1, encoder="mine")
        watch = watching(database_url, tmp_path, encoder="mine", poll_seconds=0.1)
        await watch.start()
        put(engine, 2, encoder="yours")
        await until(lambda: watch.problem is not None, within=5)
        assert serving(watch) == 1
        assert "another encoder" in watch.problem
        await watch.stop()

    run(work)


@pytest.mark.fault("start with the database away")
def test_without_the_database_the_cached_version_serves(engine, database_url, tmp_path):
    async def work() -> None:
        put(engine, 1)
        watch = watching(database_url, tmp_path)
        await watch.start()
        await watch.stop()
        alone = watching(NOWHERE, tmp_path)
        await alone.start()
        assert serving(alone) == 1
        assert "database" in alone.problem
        await alone.stop()

    run(work)


@pytest.mark.fault("start with the database away")
def test_without_database_and_cache_the_rules_of_the_fleet_decide(tmp_path):
    async def work() -> None:
        heard: list[str] = []
        watch = watching(NOWHERE, tmp_path, fleet=build_version().fleet, announce=heard.append)
        await watch.start()
        assert watch.current.policy == "rules"
        assert len(heard) == 2
        await watch.stop()

    run(work)


def test_a_damaged_cache_is_not_served(engine, database_url, tmp_path):
    async def work() -> None:
        put(engine, 1)
        watch = watching(database_url, tmp_path)
        await watch.start()
        await watch.stop()
        path = tmp_path / "cache" / "router-version"
        path.write_bytes(path.read_bytes()[:-3])
        alone = watching(NOWHERE, tmp_path)
        await alone.start()
        assert alone.current is None
        assert "cached version" in alone.problem
        await alone.stop()

    run(work)


@pytest.mark.parametrize("times", [30])
def test_many_publications_in_a_row_end_with_the_last(engine, database_url, tmp_path, times):
    async def work() -> None:
        watch = watching(database_url, tmp_path)
        await watch.start()
        seen = []
        for seed in range(times):
            put(engine, seed)
            await asyncio.sleep(0)
            seen.append(serving(watch))
        await until(lambda: serving(watch) == times, within=5)
        served = [number for number in seen if number is not None]
        assert served == sorted(served)
        await watch.stop()

    run(work)
