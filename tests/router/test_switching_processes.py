"""Switches of several real processes at once: each is whole, they come one after another, and the chain holds."""

import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from sqlalchemy import func, select, update

from router.activations import verify_history
from router.plan import read_plan
from router.registry import active, history, list_versions, publish, quarantine_version, read_version
from router.rollout import start_trial
from telemetry.tables import router_activation, router_artifact
from tests.router.samples import build_version

WHO = {"actor": "a test", "reason": "because"}


@contextmanager
def switching(url, *arguments):
    command = [sys.executable, "-m", "tests.router.switching_process", url, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def acted(url, *arguments):
    """A process that has acted and not committed."""
    with switching(url, *arguments) as process:
        assert [read(process), read(process)] == ["waits", "acted"]
        yield process


def read(process):
    return process.stdout.readline().strip()


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()
    return read(process)


def put(engine, seed, **rest):
    with engine.begin() as conn:
        return publish(conn, build_version(seed=seed), **{"parent": None, **WHO, **rest}).number


def state(engine):
    """What serves, how many serve, and where the chain is broken."""
    with engine.connect() as conn:
        statuses = [v.status for v in list_versions(conn)]
        return active(conn).version, statuses.count("active"), verify_history(conn)


def ran(url, *arguments):
    """Run one switch to its end; return what it printed last."""
    with switching(url, *arguments) as process:
        return process.communicate("\n", timeout=180)[0].split()[-1]


@pytest.mark.parametrize(
    ("first", "second", "serves"),
    [
        (("publish", 3), ("publish", 4), 4),  # two publishers
        (("rollback",), ("publish", 3), 3),  # publish during a rollback
        (("publish", 3), ("rollback",), 2),  # a rollback during a publication undoes just that
        (("rollback",), ("activate", 2), 2),  # the way back, and somebody who wants to go forward
    ],
)
def test_of_two_at_once_the_second_waits_for_the_first(engine, database_url, first, second, serves):
    for seed in (1, 2):
        put(engine, seed)
    with acted(database_url, *first) as one, switching(database_url, *second) as other:
        assert read(other) == "waits"
        time.sleep(0.5)
        assert state(engine)[0] == 2  # nothing is seen before it is committed
        go(one)
        assert read(other) == "acted"
        assert go(other) == str(serves)
    assert state(engine) == (serves, 1, None)


def test_a_process_killed_in_the_middle_of_a_switch_leaves_no_trace_and_holds_nobody_up(engine, database_url):
    put(engine, 1)
    before = state(engine)
    with acted(database_url, "publish", 3) as one:
        one.kill()
        one.wait()
    assert ran(database_url, "publish", 4) == "2" or state(engine)[0] > before[0]
    assert state(engine)[1:] == (1, None)
    with engine.connect() as conn:
        assert len(history(conn)) == 2


@pytest.mark.slow
def test_eight_publishers_at_once_leave_one_version_serving_and_a_whole_chain(engine, database_url):
    put(engine, 1)
    processes = []
    for seed in range(10, 18):
        command = [sys.executable, "-m", "tests.router.switching_process", database_url, "publish", str(seed)]
        processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    for process in processes:
        process.wait(280)
    assert [process.returncode for process in processes] == [0] * 8
    with engine.connect() as conn:
        rows = history(conn, limit=None, order="asc")
        assert len(rows) == 9
        assert active(conn).version == rows[-1].version
    assert state(engine)[1:] == (1, None)


@pytest.mark.slow
def test_of_two_rollbacks_that_both_mean_the_newest_one_is_refused(engine, database_url):
    for seed in (1, 2, 3):
        put(engine, seed)
    assert ran(database_url, "publish_if_nobody_came_before", 2) == "StaleActivation"
    assert ran(database_url, "rollback") == "2"
    assert ran(database_url, "rollback") == "1"  # a rollback of a rollback goes one further back, not forward again
    assert ran(database_url, "rollback") == "NothingToRollBack"
    assert state(engine) == (1, 1, None)


@pytest.mark.slow
def test_a_damaged_and_a_quarantined_version_are_refused_in_every_process(engine, database_url):
    put(engine, 1)
    damaged, bad = put(engine, 2, status="candidate"), put(engine, 3, status="candidate")
    with engine.begin() as conn:
        where = (router_artifact.c.version == damaged) & (router_artifact.c.part == "centroids.safetensors")
        flipped = func.set_byte(router_artifact.c.bytes, 300, 255 - func.get_byte(router_artifact.c.bytes, 300))
        conn.execute(update(router_artifact).where(where).values(bytes=flipped))
        quarantine_version(conn, bad)
    for what in ("activate", "canary"):
        assert ran(database_url, what, damaged) == "DamagedArtifact"
        assert ran(database_url, what, bad) == "RefusedVersion"
    assert state(engine) == (1, 1, None)


def test_a_canary_is_promoted_or_taken_back_but_not_both(engine, database_url):
    put(engine, 1)
    newer = put(engine, 2, status="candidate")
    with engine.begin() as conn:
        start_trial(conn, newer, mode="canary", share=0.05, **WHO)
    with acted(database_url, "take_back") as one, switching(database_url, "promote") as other:
        assert read(other) == "waits"
        assert go(one) == "1"
        assert read(other) == "NothingOnTrial"
    with engine.connect() as conn:
        assert read_version(conn, newer).status == "quarantined"
        assert read_plan(conn).side is None
    assert state(engine) == (1, 1, None)


@pytest.mark.parametrize("column", ["reason", "actor", "share", "version", "activated_at", "kind", "route"])
def test_whatever_is_changed_in_the_history_is_found(engine, column):
    for seed in (1, 2, 3):
        put(engine, seed)
    forged = {"share": 0.5, "version": 3, "kind": "rollback", "activated_at": func.clock_timestamp()}
    with engine.begin() as conn:
        where = router_activation.c.seq == 2
        conn.execute(update(router_activation).where(where).values({column: forged.get(column, "forged")}))
        assert verify_history(conn) == 2


def test_a_row_that_is_taken_out_or_put_in_is_found(engine):
    for seed in (1, 2, 3):
        put(engine, seed)
    with engine.begin() as conn:
        row = conn.execute(select(router_activation).where(router_activation.c.seq == 2)).mappings().one()
        conn.execute(router_activation.delete().where(router_activation.c.seq == 2))
        assert verify_history(conn) == 3
        conn.execute(router_activation.insert().values(dict(row)))
        assert verify_history(conn) is None
        conn.execute(router_activation.insert().values({**row, "seq": 9}))
        assert verify_history(conn) == 9
