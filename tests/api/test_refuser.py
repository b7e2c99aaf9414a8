"""The process that refuses: gets connections whose writes were too much, gives them back, and may die at any time."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from api.app import create_app
from api.refuser import Refuser
from api.refuser_process import REFUSED
from api.shedding import Visit
from tests.api.cli.processes import wait_for
from tests.api.conftest import serving
from tests.api.raw_http import BODY, HEALTH, LENGTH, answers, post

WRITE = post(LENGTH)
COUNTED = 'trimtab_requests_total{path="/v1/inferences",status="429"} '


class Shop:
    """A server, and how much it has in hand."""

    def __init__(self, app, address):
        self._app = app
        self._visits = []
        self.url = httpx.URL(address)

    @property
    def refuser(self) -> Refuser:
        return self._app.state.server.door.refuser

    @property
    def pid(self):
        return self.refuser._process.pid

    def fill(self):
        """More writes are in its hands than it takes."""
        self.empty()
        door = self._app.state.server.door
        self._visits = [Visit(door, {}) for _ in range(2000)]
        for visit in self._visits:
            visit.come()

    def empty(self):
        """It has done all that it had to do."""
        for visit in self._visits:
            visit.begin()
            visit.leave()
        self._visits = []

    def connect(self):
        return socket.create_connection((self.url.host, self.url.port), timeout=5)

    def refused(self):
        lines = httpx.get(self.url.join("/metrics")).text.splitlines()
        return next((float(line.removeprefix(COUNTED)) for line in lines if line.startswith(COUNTED)), 0.0)

    def held(self, wire):
        """Have this connection refused until the process has it."""
        wait_for(lambda: self.refuser.ready or self.connect().close(), seconds=20)

        def refused_there():
            before = list(self.refuser._numbers[REFUSED:])
            wire.sendall(WRITE)
            assert answers(wire, 1) == [429]
            return list(self.refuser._numbers[REFUSED:]) != before

        wait_for(refused_there, seconds=5)


@contextlib.contextmanager
def opened(url, settings, **more):
    app = create_app(settings, database_url=url)
    with serving(app, **more) as address:
        shop = Shop(app, address)
        shop.connect().close()
        yield shop
        shop.empty()


@pytest.fixture(scope="module")
def _shop(module_url, app_settings):
    with opened(module_url, app_settings) as shop:
        yield shop


@pytest.fixture
def shop(_shop):
    """A server whose process beside stands ready, and that has too much to do."""
    _shop.fill()
    yield _shop
    _shop.empty()
    wait_for(lambda: _shop.refuser.holding == 0, seconds=20)


@pytest.fixture
def wire(shop):
    with shop.connect() as connection:
        yield connection


def test_a_connection_that_was_refused_is_refused_by_the_process_and_counted(shop, wire):
    shop.held(wire)
    before = shop.refused()
    for _ in range(20):
        wire.sendall(WRITE)
        assert answers(wire, 1) == [429]
    assert (shop.refused() - before, shop.refuser.holding) == (20, 1)


def test_clients_that_say_that_they_stay_are_plain_too(shop, wire):
    shop.held(wire)
    back = shop.refuser._back
    for header in ("Connection: keep-alive", "connection: Keep-Alive", "CONNECTION: keep-alive"):
        wire.sendall(post(LENGTH, header))
        assert answers(wire, 1) == [429]
    assert (shop.refuser._back - back, shop.refuser.holding) == (0, 1)


@pytest.mark.parametrize("header", ["Connection: close", "Proxy-Connection: close"])
def test_clients_that_say_that_they_go_are_hung_up_on(shop, wire, header):
    shop.held(wire)
    wire.sendall(post(LENGTH, header))
    assert answers(wire, 2) == [429, 0]


@pytest.mark.parametrize("path", ["/v1/inferences?a=b", "/v1/feedback/01900000-0000-7000-8000-000000000000"])
def test_a_write_that_the_process_would_give_back_stays_with_the_server(shop, wire, path):
    handed = shop.refuser._handed
    for _ in range(3):
        wire.sendall(post(LENGTH, path=path).replace(b"POST /v1/feedback/", b"PUT /v1/feedback/"))
        assert answers(wire, 1) == [429]
    assert shop.refuser._handed == handed


def test_the_process_says_the_same_as_the_server(shop, wire):
    wire.sendall(WRITE)
    first = wire.recv(65_536)
    wait_for(lambda: shop.refuser.holding == 1, seconds=5)
    wire.sendall(WRITE)
    assert wire.recv(65_536) == first


def test_the_connection_comes_back_by_itself_when_there_is_room(shop, wire):
    shop.held(wire)
    shop.empty()
    statuses = []
    while 201 not in statuses and len(statuses) < 100:
        time.sleep(0.02)
        wire.sendall(WRITE)
        statuses += answers(wire, 1)
    assert statuses[-1] == 201
    assert len(statuses) < 20


def test_a_body_that_comes_while_the_connection_comes_back_is_read_after_its_head(shop):
    for i in range(40):
        with shop.connect() as wire:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            shop.fill()
            shop.held(wire)
            shop.empty()
            statuses = [429]
            while statuses[-1] == 429:
                wire.sendall(post(LENGTH, body=b""))
                time.sleep(i * 0.00003)  # somewhere on the way
                wire.sendall(BODY)
                statuses += answers(wire, 1)
            assert statuses[-1] == 201
        wait_for(lambda: shop.refuser.holding == 0, seconds=5)


def test_what_is_no_write_is_the_servers_and_the_connection_with_it(shop, wire):
    shop.held(wire)
    wire.sendall(HEALTH)
    assert answers(wire, 1) == [200]
    assert shop.refuser.holding == 0
    shop.held(wire)


def test_a_write_in_pieces_is_refused_by_the_server(shop, wire):
    shop.held(wire)
    for byte in WRITE:
        wire.sendall(bytes([byte]))
        time.sleep(0.001)
    assert answers(wire, 1) == [429]
    wire.sendall(HEALTH)
    assert answers(wire, 1) == [200]


def test_a_large_body_is_read_past_and_what_looks_like_a_request_in_it_too(shop, wire):
    shop.held(wire)
    body = (WRITE + HEALTH) * 2000
    wire.sendall(post(f"Content-Length: {len(body)}", path="/v1/inferences:batch", body=b""))
    assert answers(wire, 1) == [429]
    for start in range(0, len(body), 50_000):
        wire.sendall(body[start : start + 50_000])
        time.sleep(0.005)
    wire.sendall(WRITE)
    assert answers(wire, 1) == [429]
    assert shop.refuser.holding == 1


@pytest.mark.parametrize(("sent", "expected"), [(WRITE + WRITE + HEALTH, [429, 429, 200]), (HEALTH + WRITE, [200])])
def test_requests_sent_at_once_are_answered_in_their_order(shop, wire, sent, expected):
    shop.held(wire)
    wire.sendall(sent)
    assert answers(wire, len(expected)) == expected


def test_one_that_reads_no_answers_hurts_nobody(shop, wire):
    shop.held(wire)
    with shop.connect() as deaf:
        shop.held(deaf)
        deaf.settimeout(1)
        with contextlib.suppress(OSError):
            while True:
                deaf.sendall(WRITE)
        wire.sendall(WRITE)
        assert answers(wire, 1) == [429]


def test_a_silent_connection_is_closed(module_url, app_settings):
    with opened(module_url, app_settings, keep_alive_seconds=1) as shop, shop.connect() as wire:
        shop.fill()
        shop.held(wire)
        for _ in range(4):
            time.sleep(0.5)
            wire.sendall(WRITE)
            assert answers(wire, 1) == [429]
        assert answers(wire, 1) == [0]
        wait_for(lambda: shop.refuser.holding == 0)


def test_a_client_that_leaves_is_forgotten(shop):
    with shop.connect() as wire:
        shop.held(wire)
    wait_for(lambda: shop.refuser.holding == 0, seconds=5)


def test_when_the_process_is_killed_the_server_refuses_by_itself_and_starts_another(shop, wire):
    shop.held(wire)
    killed = shop.pid
    os.kill(killed, signal.SIGKILL)
    assert answers(wire, 1) == [0]
    with shop.connect() as other:
        other.sendall(WRITE)
        assert answers(other, 1) == [429]
        before = shop.refused()
        shop.held(other)
        other.sendall(WRITE)
        assert answers(other, 1) == [429]
        assert shop.refused() > before
    assert shop.pid != killed


def test_when_the_process_hangs_it_is_killed_and_the_server_refuses_by_itself(shop, wire):
    shop.held(wire)
    hung = shop.pid
    os.kill(hung, signal.SIGSTOP)
    wire.settimeout(20)
    wire.sendall(WRITE)
    assert answers(wire, 1) == [0]
    with shop.connect() as other:
        other.sendall(WRITE)
        assert answers(other, 1) == [429]
    wait_for(lambda: not Path(f"/proc/{hung}").exists(), seconds=5)


def test_signals_to_the_whole_group_leave_it_to_the_server_when_it_ends(shop, wire):
    shop.held(wire)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(shop.pid, number)
    wire.sendall(WRITE)
    assert answers(wire, 1) == [429]


def test_it_ends_with_the_server_and_the_connections_that_it_has_too(module_url, app_settings):
    with opened(module_url, app_settings) as shop, contextlib.ExitStack() as wires:
        shop.fill()
        wire = wires.enter_context(shop.connect())
        shop.held(wire)
        pid = shop.pid
        assert Path(f"/proc/{pid}").exists()
        wires = wires.pop_all()
    with wires:
        assert answers(wire, 1) == [0]
    assert not Path(f"/proc/{pid}").exists()


CLIENTS = """
import asyncio, sys

async def client(port, write):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            writer.write(write)
            await reader.readuntil(b"\\r\\n\\r\\n")
            await asyncio.sleep(0.001)
    except (OSError, asyncio.IncompleteReadError):
        writer.close()

async def main(port, write):
    await asyncio.gather(*(client(port, write) for _ in range(6)))

asyncio.run(main(int(sys.argv[1]), sys.argv[2].encode()))
"""


def test_a_server_that_stops_is_not_kept_by_connections_that_come_back(module_url, app_settings):
    with opened(module_url, app_settings) as shop:
        shop.fill()
        write = post(LENGTH, "Connection: keep-alive").decode()
        clients = subprocess.Popen([sys.executable, "-c", CLIENTS, str(shop.url.port), write])
        wait_for(lambda: shop.refuser.holding == 6)
        refuser = shop.refuser
        shop.empty()
        began = time.monotonic()
    assert time.monotonic() - began < 4
    assert (refuser.ready, refuser._process, refuser._tasks) == (False, None, set())
    assert clients.wait(10) == 0


def test_a_server_serves_where_nothing_can_be_shared_with_a_process(module_url, app_settings, monkeypatch):
    def no_memory(_name):
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(os, "memfd_create", no_memory)
    with opened(module_url, app_settings) as shop, shop.connect() as wire:
        shop.fill()
        wire.sendall(WRITE + HEALTH)
        assert answers(wire, 2) == [429, 200]


def test_where_no_process_can_be_started_the_server_refuses_by_itself(module_url, app_settings, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with opened(module_url, app_settings) as shop, shop.connect() as wire:
        shop.fill()
        for _ in range(3):
            wire.sendall(WRITE)
            assert answers(wire, 1) == [429]
        assert not shop.refuser.ready


def test_it_loads_nothing_but_the_standard_library():
    code = "import sys, api.refuser_process; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert ours - {"api", "sitecustomize", "distutils"} == set()
