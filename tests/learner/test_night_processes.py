"""Nights that are killed, stopped or doubled, as real processes."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update

from learner import lease
from learner.nightly import STEPS, run_night
from learner.runs import Heartbeat, NightTooLong
from router.registry import active
from telemetry.learner_runs import who_learns
from telemetry.tables import (
    learner_consumption,
    learner_lease,
    learner_run,
    mined_failure,
    router_activation,
    router_artifact,
    router_version,
)
from tests.learner.world import QUICK, first_published, log_day


@contextmanager
def night(url, what, step="none"):
    command = [sys.executable, "-m", "tests.learner.night_process", url, what, step]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()


def wait_until(condition, *, seconds=180.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


def state_of(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def let_the_lease_run_out(engine):
    """A minute passes; tests do not wait for it."""
    with engine.begin() as conn:
        conn.execute(update(learner_lease).values(expires_at=func.clock_timestamp()))


def what_is_published(engine):
    """Everything that a night may change for the serving side, and what it mined."""
    tables = (router_version, router_artifact, router_activation, mined_failure, learner_consumption)
    with engine.connect() as conn:
        return [conn.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]


def runs(engine):
    with engine.connect() as conn:
        rows = conn.execute(select(learner_run.c.status, learner_run.c.verdict).order_by(learner_run.c.started_at))
        return [tuple(row) for row in rows]


@pytest.mark.fault("learner killed at each step")
@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_night_killed_at_any_step_leaves_nothing_behind_and_the_next_one_publishes(
    engine, encoder, database_url, step
):
    log_day(engine, encoder, first_published(engine, encoder))
    before = what_is_published(engine)
    with night(database_url, "kill", step) as process:
        assert process.wait(280) == -signal.SIGKILL
    assert what_is_published(engine) == before
    let_the_lease_run_out(engine)
    assert run_night(engine, encoder=encoder, settings=QUICK, actor="a test").verdict == "published"
    assert runs(engine) == [("abandoned", None), ("finished", "published")]


@pytest.mark.fault("learner killed at each step")
@pytest.mark.slow
def test_a_night_killed_within_the_publishing_transaction_publishes_nothing(engine, encoder, database_url):
    log_day(engine, encoder, first_published(engine, encoder))
    before = what_is_published(engine)
    waiting = text(
        "select count(*) from pg_locks l join pg_class c on c.oid = l.relation "
        "where not granted and relname = 'learner_consumption'"
    )
    with engine.connect() as blocker, engine.connect() as watcher:
        blocker.execute(text("lock table learner_consumption in access exclusive mode"))
        with night(database_url, "go") as process:
            wait_until(lambda: watcher.execute(waiting).scalar_one())
            process.kill()
            process.wait(30)
        blocker.rollback()
    wait_until(lambda: what_is_published(engine) == before)
    with engine.connect() as conn:
        assert active(conn).version == 1


@pytest.mark.fault("zombie learner")
@pytest.mark.slow
def test_a_learner_that_wakes_after_its_lease_publishes_nothing(engine, encoder, database_url):
    log_day(engine, encoder, first_published(engine, encoder))
    with night(database_url, "stop", "publish") as zombie:
        wait_until(lambda: state_of(zombie) == "T")
        let_the_lease_run_out(engine)
        assert run_night(engine, encoder=encoder, settings=QUICK, actor="a test").version == 2
        after = what_is_published(engine)
        zombie.send_signal(signal.SIGCONT)
        printed, _ = zombie.communicate(timeout=180)
    assert printed.split()[-1] == "LeaseLost"
    assert what_is_published(engine) == after
    assert runs(engine) == [("abandoned", None), ("finished", "published")]


@pytest.mark.fault("two learners")
@pytest.mark.slow
def test_of_two_learners_at_once_one_works_and_the_other_is_told_so(engine, encoder, database_url):
    log_day(engine, encoder, first_published(engine, encoder))
    with night(database_url, "go") as one, night(database_url, "go") as other:
        printed = [process.communicate(timeout=280)[0].split()[-1] for process in (one, other)]
    assert sorted(printed) == ["LeaseHeld", "published"]
    with engine.connect() as conn:
        assert active(conn).version == 2


@pytest.mark.fault("learner out of memory")
@pytest.mark.slow
@pytest.mark.parametrize("step", ["estimate", "split"])
def test_a_night_that_gets_no_more_memory_leaves_nothing_behind(engine, encoder, database_url, step):
    log_day(engine, encoder, first_published(engine, encoder))
    before = what_is_published(engine)
    with night(database_url, "starve", step) as process:
        assert process.wait(280) != 0
    assert what_is_published(engine) == before
    let_the_lease_run_out(engine)
    assert run_night(engine, encoder=encoder, settings=QUICK, actor="a test").verdict == "published"


@pytest.mark.fault("learner past its deadline")
@pytest.mark.slow
def test_a_night_past_its_deadline_is_given_up_and_holds_the_next_one_no_longer(engine, encoder):
    log_day(engine, encoder, first_published(engine, encoder))
    before = what_is_published(engine)
    with pytest.raises(NightTooLong):
        run_night(engine, encoder=encoder, settings=replace(QUICK, most_hours=1e-6), actor="a test")
    assert what_is_published(engine) == before
    assert run_night(engine, encoder=encoder, settings=QUICK, actor="a test").verdict == "published"
    assert runs(engine) == [("failed", None), ("finished", "published")]


@pytest.mark.fault("learner past its deadline")
@pytest.mark.parametrize(("hours", "renewed"), [(1e-9, False), (1.0, True)])
def test_a_night_that_is_stuck_renews_its_lease_until_its_deadline_only(engine, monkeypatch, hours, renewed):
    monkeypatch.setattr("learner.runs._BEAT_SECONDS", 0.02)
    with engine.begin() as conn:
        token = lease.acquire(conn, holder="a")
    let_the_lease_run_out(engine)
    with Heartbeat(engine, token, hours=hours):
        time.sleep(0.5)
        with engine.connect() as conn:
            assert (who_learns(conn) == "a") is renewed
