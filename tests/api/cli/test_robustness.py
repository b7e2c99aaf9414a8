"""Servers and their database killed, doubled and rolled back, as real processes."""

import contextlib
import os
import resource
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from api.server_process import _prepare_later
from router.registry import activate, active, load, publish
from telemetry import embedded_postgres
from telemetry.database import create_engine
from telemetry.tables import inference
from tests.api.cli.processes import answers, environment, serving, trimtab, wait_for
from tests.faults.ledger import Ledger

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def database(home):
    """The home's database, used by this process too."""
    running = embedded_postgres.start(home)
    engine = create_engine(running.url)
    try:
        yield engine
    finally:
        engine.dispose()
        running.stop()


def missing(home, keys):
    """Which of the acknowledged inferences are not stored."""
    with database(home) as engine, engine.connect() as conn:
        stored = set(conn.execute(select(inference.c.inference_id)).scalars())
    return [key for key in keys if key not in {str(one) for one in stored}]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def second_version(engine):
    """Another version than 1, published."""
    with engine.begin() as conn:
        other = replace(load(conn, 1), training={"made_at": time.time()}, number=0, fingerprint="")
        return publish(conn, other, actor="a test", reason="another one", parent=1).number


def decided_by(http):
    answer = http.post("/v1/route", json={"query": "where is my parcel", "log": False})
    assert answer.status_code == 200
    return answer.json()["router_version"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_after_kill_9_of_the_server_one_command_brings_everything_acknowledged_back(served_home, workers):
    port = free_port()
    with serving(served_home, "--workers", workers, port=port) as server:
        ledger = Ledger(server.address, finish_seconds=0)
        with ledger.working():
            ledger.wait_for_more(100)
            server.end(signal.SIGKILL)
    with serving(served_home, "--workers", workers, port=port) as again:
        assert answers(again.address)
        assert missing(served_home, ledger.acknowledged) == []
    assert set(ledger.statuses["log"]) <= {201, 0}


@pytest.mark.fault("postgres killed")
def test_after_kill_9_of_postgres_it_comes_back_and_nothing_acknowledged_is_lost(served_home):
    with serving(served_home) as server:
        ledger = Ledger(server.address)
        with ledger.working():
            for _ in range(3):
                ledger.wait_for_more(50)
                pid, _users = embedded_postgres.status(served_home)
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda pid=pid: embedded_postgres.status(served_home)[0] not in (None, pid))
            ledger.wait_for_more(50)
        wait_for(lambda: httpx.get(f"{server.address}/readyz").json()["status"] == "ready")
        assert missing(served_home, ledger.acknowledged) == []
    assert set(ledger.statuses["log"]) <= {200, 201, 503}
    assert set(ledger.statuses["decide"]) == {200}


def test_after_kill_9_of_the_server_and_of_postgres_one_command_brings_both_back(served_home):
    with serving(served_home) as server:
        ledger = Ledger(server.address, finish_seconds=0)
        with ledger.working():
            ledger.wait_for_more(50)
            os.kill(embedded_postgres.status(served_home)[0], signal.SIGKILL)
            server.end(signal.SIGKILL)
    with serving(served_home):
        assert missing(served_home, ledger.acknowledged) == []


@pytest.mark.fault("start with the database away")
def test_a_server_that_starts_while_its_database_is_away_decides_and_mends_by_itself(served_home):
    running = embedded_postgres.start(served_home)
    with serving(served_home, TRIMTAB_DATABASE_URL=running.url):
        pass
    running.stop()
    with serving(served_home, TRIMTAB_DATABASE_URL=running.url) as server:
        assert "The database cannot be reached; start it, or correct TRIMTAB_DATABASE_URL." in server.printed()
        with httpx.Client(base_url=server.address, timeout=10) as http:
            assert decided_by(http) >= 1
            assert http.get("/readyz").json()["status"] == "degraded"
            refused = http.post("/v1/inferences", json={"query": "x", "decision": {"route": "orders"}})
            assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
            with database(served_home):
                wait_for(lambda: http.get("/readyz").json()["status"] == "ready")
                wait_for(lambda: "prepared_late" in server.printed())
                assert http.post("/v1/inferences", json={"query": "x", "decision": {"route": "orders"}}).is_success


def test_a_database_that_came_late_is_prepared_however_often_that_has_failed(served_home, empty_url, monkeypatch):
    def let_write(allowed):
        engine = create_engine(empty_url)
        with engine.begin() as conn:
            conn.execute(text("set transaction read write"))
            name = conn.execute(text("select current_database()")).scalar_one()
            conn.execute(
                text(f"alter database {name} set default_transaction_read_only = {'off' if allowed else 'on'}")
            )
        engine.dispose()

    let_write(False)
    monkeypatch.setattr(sys, "executable", "/no/python")
    stop, given = threading.Event(), environment(served_home, TRIMTAB_DATABASE_URL=empty_url)
    preparing = threading.Thread(target=_prepare_later, args=(given, stop))
    with capture_logs() as logged:
        preparing.start()
        try:
            wait_for(lambda: logged)
            monkeypatch.undo()
            wait_for(lambda: logged[-1]["event"] == "prepared_late")
            let_write(True)
            wait_for(lambda: not preparing.is_alive())
        finally:
            stop.set()
            preparing.join()
    tries = [(line["event"], line.get("exit_code")) for line in logged]
    assert tries[0] == ("prepare_not_started", None)
    assert ("prepared_late", 1) in tries
    assert tries[-1] == ("prepared_late", 0)
    with contextlib.closing(create_engine(empty_url).connect()) as conn:
        assert active(conn).version == 1


@pytest.mark.fault("start with the database away")
def test_a_new_replica_starts_while_the_database_is_away_and_is_ready_once_it_has_read_the_keys(served_home, tmp_path):
    running = embedded_postgres.start(served_home)
    running.stop()
    others = {"TRIMTAB_DATABASE_URL": running.url, "TRIMTAB_HOST": "0.0.0.0"}  # noqa: S104 - as in a cluster
    with (
        serving(tmp_path, path="/healthz", **others) as server,
        httpx.Client(base_url=server.address, timeout=10) as http,
    ):
        assert http.get("/readyz").status_code == 503
        assert http.post("/v1/route", json={"query": "x"}).json()["code"] == "not_ready"
        with database(served_home):
            wait_for(lambda: http.get("/readyz").status_code == 200)
            wait_for(lambda: "prepared_late" in server.printed())
            assert http.post("/v1/route", json={"query": "x"}).json()["code"] == "key_missing"


@pytest.mark.fault("SIGTERM under load")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_under_load_stores_what_was_acknowledged_and_stops_the_database(served_home, number):
    with serving(served_home) as server:
        ledger = Ledger(server.address, finish_seconds=0)
        with ledger.working():
            ledger.wait_for_more(50)
            began = time.monotonic()
            assert server.end(number) == 0
            assert time.monotonic() - began < 5
    assert embedded_postgres.status(served_home) == (None, ())
    assert missing(served_home, ledger.acknowledged) == []
    assert "Stopped; everything acknowledged is stored." in server.printed()
    assert "Traceback" not in server.printed()


def ready(address):
    """What /readyz says on a connection of its own: the status, and whether it drains."""
    answer = httpx.get(f"{address}/readyz", timeout=10)
    return answer.status_code, answer.json()["draining"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_drains_is_not_ready_and_goes_on_answering(served_home, workers):
    with (
        serving(served_home, "--workers", workers, TRIMTAB_DRAIN_SECONDS="8") as server,
        httpx.Client(base_url=server.address, timeout=10) as kept,
    ):
        assert decided_by(kept) >= 1
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: ready(server.address) == (503, True), seconds=5)
        time.sleep(0.5)  # until the other worker has heard it too
        answered = 0
        with contextlib.suppress(httpx.TransportError):
            while server.process.poll() is None:
                with httpx.Client(base_url=server.address, timeout=10) as fresh:
                    assert decided_by(fresh) == decided_by(kept)
                    event = {"query": "where is my parcel", "decision": {"route": "orders"}}
                    assert fresh.post("/v1/inferences", json=event).status_code == 201
                    assert ready(server.address) == (503, True)
                answered += 1
        assert answered > 5
        assert server.process.wait(60) == 0
        assert "Stopped; everything acknowledged is stored." in server.printed()
        assert "Traceback" not in server.printed()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_does_not_wait(served_home, workers, number):
    with serving(served_home, "--workers", workers, TRIMTAB_DRAIN_SECONDS="600") as server:
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: ready(server.address) == (503, True))
        assert server.end(number) == 0
        assert "Traceback" not in server.printed()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_does_not_wait_at_all(served_home, workers):
    with serving(served_home, "--workers", workers, TRIMTAB_DRAIN_SECONDS="600") as server:
        assert server.end(signal.SIGINT) == 0
        assert "Traceback" not in server.printed()


def test_a_closed_terminal_stops_workers_unless_it_is_ignored(served_home):
    with serving(served_home, "--workers", "2") as server:
        assert server.end(signal.SIGHUP) == 0
        assert "Stopped; everything acknowledged is stored." in server.printed()
    with serving(served_home, "--workers", "2", by=["nohup"]) as server:
        server.process.send_signal(signal.SIGHUP)
        time.sleep(2)
        assert ready(server.address) == (200, False)


def test_workers_whose_server_was_killed_do_not_drain(served_home):
    with serving(served_home, "--workers", "2", TRIMTAB_DRAIN_SECONDS="600") as server:
        workers = wait_for(lambda: len(found := workers_of(server)) == 2 and found)
        server.end(signal.SIGKILL)
        wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))


def test_two_servers_on_one_home_share_a_database_and_the_last_one_stops_it(served_home):
    with serving(served_home) as one, serving(served_home) as other:
        pid, users = embedded_postgres.status(served_home)
        assert sorted(users) == sorted([one.process.pid, other.process.pid])
        event = {"inference_id": str(uuid4()), "query": "where is my parcel", "decision": {"route": "orders"}}
        assert httpx.post(f"{one.address}/v1/inferences", json=event).status_code == 201
        assert httpx.get(f"{other.address}/v1/inferences/{event['inference_id']}").status_code == 200
        assert one.end(signal.SIGTERM) == 0
        assert embedded_postgres.status(served_home) == (pid, (other.process.pid,))
        assert httpx.get(f"{other.address}/readyz").json()["status"] == "ready"
        assert other.end(signal.SIGTERM) == 0
    assert embedded_postgres.status(served_home) == (None, ())


def test_a_rollback_by_command_reaches_two_servers_within_a_second(served_home):
    with serving(served_home) as one, serving(served_home) as other, contextlib.ExitStack() as stack:
        https = [stack.enter_context(httpx.Client(base_url=s.address, timeout=10)) for s in (one, other)]
        engine = stack.enter_context(database(served_home))
        new = second_version(engine)
        for http in https:
            wait_for(lambda http=http: decided_by(http) == new)
        done = trimtab(served_home, "rollback", "--to", "1", "--reason", "parcels go astray", "--actor", "ann@here")
        returned = time.monotonic()
        assert done.returncode == 0, done.stderr
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda http: wait_for(lambda: decided_by(http) == 1, seconds=5), https))
        assert time.monotonic() - returned < 1
        assert [decided_by(http) for http in https * 20] == [1] * 40
        newest = https[0].get("/v1/router/activations").json()["data"][0]
        assert (newest["version"], newest["kind"], newest["actor"], newest["reason"]) == (
            *(1, "rollback", "ann@here", "parcels go astray"),
        )


def test_every_worker_of_every_server_follows_an_activation_within_a_second_each_of_ten_times(served_home):
    with (
        serving(served_home, "--workers", "2") as one,
        serving(served_home) as other,
        contextlib.ExitStack() as stack,
    ):
        # Each connection stays with the worker that took it; twelve of them reach both.
        addresses = [one.address] * 12 + [other.address]
        https = [stack.enter_context(httpx.Client(base_url=address, timeout=10)) for address in addresses]
        engine = stack.enter_context(database(served_home))
        took = []
        for number in (second_version(engine), 1) * 5:
            with engine.begin() as conn:
                activate(conn, number, kind="publish", actor="a test", reason="to and fro")
            began = time.monotonic()
            for http in https:
                wait_for(lambda http=http, number=number: decided_by(http) == number, seconds=5, every=0.005)
            took.append(time.monotonic() - began)
    assert max(took) < 1


@pytest.mark.fault("API worker killed")
def test_a_worker_that_is_killed_is_replaced_and_takes_nothing_acknowledged_along(served_home):
    with serving(served_home, "--workers", "2") as server:
        ledger = Ledger(server.address)
        with ledger.working():
            ledger.wait_for_more(50)
            killed = wait_for(lambda: workers_of(server))[0]
            os.kill(killed, signal.SIGKILL)
            wait_for(lambda: len(workers_of(server)) == 2 and killed not in workers_of(server))
            ledger.wait_for_more(50)
        assert missing(served_home, ledger.acknowledged) == []
    # 200: sent again, since the worker had committed it and was killed before it could say so.
    assert set(ledger.statuses["log"]) <= {201, 200, 0}
    assert ledger.statuses["log"][200] <= ledger.threads


def workers_of(server):
    """Pids of the worker processes; multiprocessing's own helper is none."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            command = (status.parent / "cmdline").read_bytes()
            if int(parent) == server.process.pid and state != "Z" and b"spawn_main" in command:
                found.append(int(status.parent.name))
    return found


@contextlib.contextmanager
def few_files(number):
    """What is started here may open so many files, until it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_server_and_its_workers_open_as_many_files_as_they_may(served_home):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if most <= 1024:
        pytest.skip(f"only {most} files may be open here")
    with contextlib.ExitStack() as stack:
        with few_files(1024):
            server = stack.enter_context(serving(served_home, "--workers", "2"))
        for pid in (server.process.pid, *wait_for(lambda: len(found := workers_of(server)) == 2 and found)):
            assert f"Max open files            {most} " in Path(f"/proc/{pid}/limits").read_text()


def test_a_port_that_is_taken_is_told_before_anything_is_started(served_home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = trimtab(served_home, "serve", "--port", port)
    assert done.returncode == 1
    assert done.stderr == f"trimtab: Port {port} cannot be used (address already in use); choose another with --port.\n"
    assert embedded_postgres.status(served_home)[0] is None
