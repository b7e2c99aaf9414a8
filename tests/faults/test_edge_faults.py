"""Clients that are too many, too slow or gone, few file descriptors, clocks that are off."""

import contextlib
import json
import resource
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import func, select

from telemetry import embedded_postgres
from telemetry.tables import inference
from tests.api.conftest import running
from tests.faults.ledger import check_promises, event_of

HEAD = "POST /v1/inferences HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


def host_of(address):
    url = httpx.URL(address)
    return url.host, url.port


def raw(key):
    body = json.dumps(event_of(key))
    return (HEAD.format(len(body)) + body).encode()


@contextlib.contextmanager
def connections(address, count):
    """So many connections on which nothing is said."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.create_connection(host_of(address), timeout=10)) for _ in range(count)]
        yield found


@pytest.mark.fault("slow client")
def test_slow_clients_keep_nobody_waiting(ledger, address, stored):
    key = str(uuid4())
    with connections(address, 50) as slow, ledger.working():
        for piece in range(0, 200, 4):
            for each in slow:
                each.sendall(raw(key)[piece : piece + 4])
            time.sleep(0.02)
        ledger.wait_for_more(30)
        assert ledger.slowest["log"] < 2
        for each in slow:
            each.sendall(raw(key)[200:])
        answers = [each.recv(100).split(b" ")[1] for each in slow]
        vote = {"feedback_id": key, "inference_id": key, "value": "down"}
        assert httpx.post(f"{address}/v1/feedback", json=vote).is_success
        ledger.acknowledged.append(key)
    assert sorted(answers) == [b"200"] * 49 + [b"201"]
    check_promises(ledger, stored)


@pytest.mark.fault("half a body")
def test_clients_that_leave_after_half_a_body_leave_nothing(ledger, address, stored):
    with ledger.working():
        for _ in range(10):
            with connections(address, 10) as gone:
                for each in gone:
                    whole = raw(str(uuid4()))
                    each.sendall(whole[: len(whole) - 20])
            ledger.wait_for_more(3)
    check_promises(ledger, stored)


IDLE = """
import socket, sys

held = [socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) for _ in range(10_000)]
print(len(held), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def ten_thousand_idle(address):
    """Ten thousand connections of another process, on which nothing is said."""
    command = [sys.executable, "-c", IDLE, *map(str, host_of(address))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline() == "10000\n"
        yield
        client.stdin.close()
        assert client.wait(60) == 0


@pytest.fixture
def enough_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(max(before[1], before[0]), 65_536)
    if most < 11_000:
        pytest.skip(f"only {most} file descriptors may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.fault("10,000 idle connections")
@pytest.mark.slow
def test_ten_thousand_idle_connections_keep_nobody_waiting(enough_descriptors, ledger, address, stored):
    with ten_thousand_idle(address), ledger.working():
        ledger.wait_for_more(50)
    assert ledger.slowest["log"] < 2
    assert set(ledger.statuses["log"]) == {201}
    check_promises(ledger, stored)


@pytest.mark.fault("few file descriptors")
def test_without_file_descriptors_connections_wait_and_nothing_that_is_told_is_untrue(ledger, address, stored, own):
    database = embedded_postgres.status(own.home)[0]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ledger.working():
        ledger.wait_for_more(20)
        used = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, before[1]))
        try:
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
                while True:
                    stack.enter_context(socket.create_connection(host_of(address), timeout=2))
            ledger.wait_for_more(20)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        ledger.wait_for_more(20)
    assert embedded_postgres.status(own.home)[0] == database  # nobody took it for a dead one
    check_promises(ledger, stored, answered=False)


@pytest.mark.fault("pool exhausted")
def test_more_readers_at_a_time_than_connections_are_told_to_come_again(ledger, address, proxy, stored):
    proxy.delay = 0.15
    with ledger.working():
        ledger.wait_for_more(5)
        with httpx.Client(base_url=address, timeout=15) as http, ThreadPoolExecutor(60) as pool:

            def read(_):
                began = time.monotonic()
                return http.get("/v1/inferences").status_code, time.monotonic() - began

            answers = list(pool.map(read, range(60)))
        assert {503} < {status for status, _ in answers} <= {200, 503}
        refused = sorted(seconds for status, seconds in answers if status == 503)
        assert refused[len(refused) // 2] < 2  # as promised: they are told when their turn has not come, not at the end
        assert (
            max(seconds for _, seconds in answers) < 5 + 3
        )  # the last ones that had their turn; a slow machine is later
        proxy.delay = 0.0
        ledger.wait_for_more(20)
    assert ledger.slowest["decide"] < 2
    check_promises(ledger, stored)


@pytest.fixture
def crowded(chaos, app_settings):
    """A server whose queue is small, behind a slow way to its database: easily overloaded."""
    settings = app_settings.model_copy(update={"queue_items": 50})
    with running(settings, chaos[1]) as found:
        yield found


@pytest.mark.fault("4x overload")
@pytest.mark.slow
def test_overload_is_shed_at_once_and_everything_taken_is_stored(crowded, proxy, stored):
    proxy.delay = 0.02
    acknowledged, refused, slowest = [], [], [0.0]

    def flood(http):
        for _ in range(30):
            keys = [str(uuid4()) for _ in range(10)]
            began = time.monotonic()
            answer = http.post("/v1/inferences:batch", json={"data": [event_of(key) for key in keys]})
            if answer.status_code == 200:
                acknowledged.extend(keys)
            else:
                assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
                refused.extend(keys)
                slowest[0] = max(slowest[0], time.monotonic() - began)

    with httpx.Client(base_url=crowded, timeout=15, limits=httpx.Limits(max_connections=None)) as http:
        http.get("/healthz")
        with ThreadPoolExecutor(24) as pool:
            list(pool.map(flood, [http] * 24))
        waiting = [line for line in http.get("/metrics").text.splitlines() if line.startswith("trimtab_events_waiting")]
    assert float(waiting[0].split()[1]) == 0
    assert len(refused) > len(acknowledged) > 0  # it was too much, and what could be done was done
    assert slowest[0] < 2
    with stored.connect() as conn:
        found = {str(key) for key in conn.execute(select(inference.c.inference_id)).scalars()}
        assert conn.execute(select(func.count()).select_from(inference)).scalar_one() == len(found)
    assert found == set(acknowledged)
