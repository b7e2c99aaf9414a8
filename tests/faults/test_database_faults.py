"""Postgres, or the way to it, fails under load: nothing acknowledged is lost, nothing is stored twice."""

import contextlib
import os
import signal
import time

import httpx
import psycopg
import pytest
from sqlalchemy import text

from tests.api.cli.processes import wait_for
from tests.faults.ledger import check_promises
from tests.faults.processes import kill, processes_of


def backends(database):
    """Pids of the server's processes that serve a client."""
    with psycopg.connect(database.url) as conn:
        rows = conn.execute("select pid from pg_stat_activity where pid <> pg_backend_pid() and datname = 'trimtab'")
        return [pid for (pid,) in rows]


@contextlib.contextmanager
def suspended(database):
    pids = processes_of(database)
    for one in pids:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in pids:
            os.kill(one, signal.SIGCONT)


@pytest.mark.fault("postgres killed")
@pytest.mark.slow
def test_postgres_is_killed_whole_at_random_times(ledger, database, stored):
    with ledger.working():
        for events in (30, 7, 19):
            ledger.wait_for_more(events)
            kill(processes_of(database))
        ledger.wait_for_more(30)
    stored.dispose()
    check_promises(ledger, stored)


@pytest.mark.fault("one backend killed")
@pytest.mark.slow
def test_one_backend_is_killed_and_takes_all_others_along(ledger, database, stored):
    with ledger.working():
        for events in (30, 11):
            ledger.wait_for_more(events)
            os.kill(backends(database)[0], signal.SIGKILL)
        ledger.wait_for_more(30)
    stored.dispose()
    check_promises(ledger, stored)


@pytest.mark.fault("one backend killed")
def test_backends_are_told_to_end_by_an_administrator(ledger, database, stored):
    with ledger.working():
        for _ in range(5):
            ledger.wait_for_more(10)
            with stored.connect() as conn:
                conn.execute(
                    text("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
                )
        ledger.wait_for_more(30)
    check_promises(ledger, stored)


@pytest.mark.fault("connections cut")
def test_connections_are_cut_again_and_again(ledger, proxy, stored):
    with ledger.working():
        for _ in range(10):
            ledger.wait_for_more(5)
            assert proxy.cut_all()
        proxy.refusing = True
        proxy.cut_all()
        time.sleep(1)
        proxy.refusing = False
        ledger.wait_for_more(30)
    check_promises(ledger, stored)
    assert ledger.statuses["log"][503] > 0  # while nothing could be reached


@pytest.mark.fault("postgres hung")
@pytest.mark.slow
@pytest.mark.parametrize("seconds", [6, pytest.param(20, marks=pytest.mark.long)])
def test_postgres_hangs(ledger, database, stored, seconds):
    with ledger.working():
        ledger.wait_for_more(30)
        with suspended(database):
            time.sleep(seconds)
        ledger.wait_for_more(30)
    check_promises(ledger, stored)
    assert ledger.statuses["log"][503] > 0
    assert ledger.slowest["log"] < 5
    assert ledger.slowest["decide"] < 2


@pytest.mark.fault("postgres slow")
def test_every_round_trip_to_postgres_takes_200_ms_more(ledger, proxy, stored):
    with ledger.working():
        ledger.wait_for_more(10)
        proxy.delay = 0.1
        ledger.wait_for_more(10)
        assert ledger.slowest["decide"] < 1
        proxy.delay = 0.0
        ledger.wait_for_more(10)
    assert set(ledger.statuses["log"]) == {201}
    check_promises(ledger, stored)


@pytest.mark.fault("commit outcome unknown")
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_connection_is_cut_at_commit(ledger, proxy, stored, when):
    with ledger.working():
        ledger.wait_for_more(10)
        proxy.at_next_commits(when, times=8)
        ledger.wait_for_more(30)
    assert proxy.done == 8
    check_promises(ledger, stored)


@pytest.mark.fault("reply lost")
@pytest.mark.slow
def test_replies_to_commit_never_come_though_the_connections_stay(ledger, proxy, stored):
    with ledger.working():
        ledger.wait_for_more(10)
        proxy.at_next_commits("silent", times=2)  # one for each flusher: nothing can be stored for a while
        wait_for(lambda: proxy.done == 2)
        with httpx.Client(base_url=ledger.address, timeout=15) as http:
            said = wait_for(lambda: (now := http.get("/readyz").json())["problem"] and now, seconds=20)
        assert (said["status"], said["database"]) == ("degraded", "ok"), (
            said
        )  # the database is well, this process is not
        assert said["problem"].startswith("A write of events hangs")
        ledger.wait_for_more(30)
    assert ledger.slowest["log"] < 5
    check_promises(ledger, stored)


@pytest.mark.fault("reply lost")
@pytest.mark.slow
def test_every_connection_falls_silent_for_ever(ledger, proxy, stored):
    with ledger.working():
        ledger.wait_for_more(10)
        proxy.hold_all()
        ledger.wait_for_more(30)
    assert ledger.slowest["log"] < 5
    check_promises(ledger, stored)


@pytest.mark.fault("no connections left")
def test_postgres_has_no_connection_left(ledger, proxy, database, stored):
    with contextlib.ExitStack() as stack, ledger.working():
        ledger.wait_for_more(10)
        proxy.refusing = True
        proxy.cut_all()
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                connection = psycopg.connect(database.url.replace("/trimtab?", "/postgres?"))
                stack.enter_context(contextlib.closing(connection))
        before = ledger.statuses["log"][503]
        proxy.refusing = False  # the way is free, and there is no connection left
        wait_for(lambda: ledger.statuses["log"][503] > before + 5)
        stack.close()
        ledger.wait_for_more(30)
    check_promises(ledger, stored)
