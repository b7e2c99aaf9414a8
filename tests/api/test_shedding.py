"""Writes that are too much are refused where HTTP begins; a burst is not too much, and reads are never refused."""

import gc
import math
import os
import socket
import time
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import func, select

from api.app import create_app
from api.shedding import AIM_BESIDE, BUSY, INTERVAL_S, MOST_UNITS, MOST_WAIT_S, REQUEST_UNITS, STANDING, Door, Visit
from benchmarks.real_server import private_mib
from telemetry.database import create_engine
from telemetry.tables import inference
from tests.api.conftest import serving
from tests.api.raw_http import BODY, EVENT, HEALTH, LENGTH, answers, post


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue():
    return SimpleNamespace(storing=0, storing_bytes=0, room=math.inf)


@pytest.fixture
def door(queue, clock):
    return Door(queue, count=lambda _path, _number: None, clock=clock)


def come(door, count, size=300):
    """So many writes come whole."""
    visits = [Visit(door, {}) for _ in range(count)]
    for visit in visits:
        visit.receive(size)
        visit.come()
    return visits


def intervals(door, clock, *waits):
    """Intervals pass in which the least wait of what was begun was each of these."""
    for wait in waits:
        door.waited(wait)
        door.waited(wait + 1)
        clock.now += INTERVAL_S
    assert door.closed in (True, False)


def test_a_burst_is_let_in(door, clock):
    visits = come(door, 200)
    assert not door.closed
    clock.now += 0.06
    for visit in visits:
        visit.begin()
        visit.leave()
    come(door, 1)[0].begin()
    intervals(door, clock, 0.0001, 0.0001)
    assert not door.overloaded


def test_more_than_a_burst_is_never_in_hand_and_is_overload_from_then_on(door, clock):
    visits = come(door, 2000)
    assert door.closed
    door.refuse("/v1/inferences")
    for visit in visits[100:]:
        visit.leave()
    assert not door.closed
    clock.now += INTERVAL_S
    assert door.closed


def test_when_nothing_is_begun_at_once_for_an_interval_less_is_taken_in_hand(door, clock):
    visits = come(door, 100)
    intervals(door, clock, 2 * MOST_WAIT_S)
    assert (door.overloaded, door.closed) == (True, True)
    for visit in visits[:90]:
        visit.leave()
    assert not door.closed


def test_however_much_is_refused_some_is_taken(door, clock):
    intervals(door, clock, 2 * MOST_WAIT_S)
    taken = refused = 0
    for _ in range(1000):
        if door.closed:
            door.refuse("/v1/inferences")
            refused += 1
        else:
            come(door, 1)
            taken += 1
    assert taken > 100
    door.waited(0.001)
    assert door.closed
    assert refused < 900


def test_it_stays_overloaded_while_it_has_to_refuse_and_no_longer(door, clock):
    intervals(door, clock, 2 * MOST_WAIT_S)
    door.refuse("/v1/inferences")
    intervals(door, clock, 0.0)
    assert door.overloaded
    intervals(door, clock, 0.0)
    assert not door.overloaded


def test_an_interval_in_which_nothing_comes_is_no_overload(door, clock):
    intervals(door, clock, 2 * MOST_WAIT_S)
    clock.now += 10
    assert (door.closed, door.overloaded) == (False, False)


def test_what_waits_for_the_database_is_not_in_hand(door, clock, queue):
    come(door, 2000)
    queue.storing, queue.storing_bytes = 1990, 1990 * 300
    assert (door.writes, door.closed) == (10, False)
    queue.room = 0.5
    assert door.closed


def test_a_large_batch_is_more_work_than_one_event(door, clock):
    intervals(door, clock, 2 * MOST_WAIT_S)
    come(door, 7, size=40_000)
    assert not door.closed
    come(door, 1, size=40_000)
    assert door.closed


def test_a_body_that_has_not_come_is_nobodys_work_and_one_that_comes_after_the_answer_neither(door):
    visit = Visit(door, {})
    visit.receive(10**7)
    assert door.in_hand == 0
    visit.leave()
    visit.come()
    assert door.in_hand == 0


def test_the_door_stands_open_again_after_all_that_was_in_hand_has_left(door):
    for visit in come(door, 2000):
        visit.leave()
    assert (door.in_hand, door.closed) == (0, False)


class Beside:
    """A process beside that always has somebody, and has refused as many as it is told."""

    ready, holding = True, 9

    def __init__(self):
        self.counted, self.invited = 0, []

    def refused(self):
        if self.counted:
            yield "/v1/inferences", self.counted
        self.counted = 0

    def invite(self, most):
        self.invited.append(most)


@pytest.fixture
def beside():
    return Beside()


@pytest.fixture
def shared_door(queue, clock, beside):
    door = Door(queue, count=lambda _path, _number: None, refuser=beside, clock=clock, worked=clock)
    door.look_back()
    return door


def places(door):
    """How many connections would give their place now."""
    given = 0
    while door.gives_place():
        given += 1
    return given


def test_what_is_refused_beside_is_overload_too_and_counted(queue, clock, beside):
    counted = []
    door = Door(queue, count=lambda path, number: counted.append((path, number)), refuser=beside, clock=clock)
    door.look_back()
    beside.counted = 7
    intervals(door, clock, 0.0)
    assert (door.overloaded, counted) == (True, [("/v1/inferences", 7)])
    intervals(door, clock, 0.0)
    assert not door.overloaded


def test_as_much_as_a_burst_may_be_is_overload_when_it_stands_also_where_most_of_it_waits_to_be_stored(
    shared_door, clock, queue
):
    come(shared_door, int(MOST_UNITS / REQUEST_UNITS))
    queue.storing = 150
    seen = []
    for _ in range(STANDING + 1):
        intervals(shared_door, clock, 0.0)
        seen.append(shared_door.overloaded)
    assert seen == [False] * (STANDING - 1) + [True, True]
    assert places(shared_door) > 10


def test_while_the_event_loop_has_little_to_do_whatever_waits_is_a_slow_databases_doing(queue, clock, beside):
    door = Door(
        queue, count=lambda _path, _number: None, refuser=beside, clock=clock, worked=lambda: 0.9 * BUSY * clock.now
    )
    door.look_back()
    come(door, 2 * int(MOST_UNITS / REQUEST_UNITS))
    queue.storing = 400
    for _ in range(5 * STANDING):
        intervals(door, clock, 0.0)
        assert (door.overloaded, places(door)) == (False, 0)


def test_bursts_with_nothing_between_them_are_never_overload(shared_door, clock):
    for _ in range(3 * STANDING):
        visits = come(shared_door, int(MOST_UNITS / REQUEST_UNITS))
        intervals(shared_door, clock, 0.0)
        assert not shared_door.overloaded
        for visit in visits:
            visit.leave()
        clock.now += 10


def test_as_many_clients_as_are_served_in_a_moment_are_no_overload(shared_door, clock, queue):
    come(shared_door, int(MOST_UNITS / REQUEST_UNITS) - 10)
    for queue.storing in (0, 200, 0, 200, 0, 200):
        intervals(shared_door, clock, 0.0)
        assert (shared_door.overloaded, places(shared_door)) == (False, 0)


def test_nobody_is_asked_back_while_the_queue_takes_no_more(shared_door, clock, beside, queue):
    beside.counted = 1
    queue.room = 0.5
    assert shared_door.closed
    queue.room = 40
    intervals(shared_door, clock, 0.0)
    assert (shared_door.overloaded, beside.invited[-1]) == (True, 0)
    beside.counted = 1
    intervals(shared_door, clock, 0.0)
    assert beside.invited[-1] == 20


def test_who_was_refused_comes_back_as_there_is_room_and_nobody_while_there_is_none(shared_door, clock, beside, queue):
    beside.counted = 1
    intervals(shared_door, clock, 0.0)
    assert 0 < beside.invited[-1] <= AIM_BESIDE / REQUEST_UNITS
    assert places(shared_door) == 1
    visits = come(shared_door, int(AIM_BESIDE / REQUEST_UNITS))
    beside.counted = 1
    intervals(shared_door, clock, 0.0)
    assert beside.invited[-1] == 0
    for visit in visits:
        visit.leave()
    queue.room = 0.5
    intervals(shared_door, clock, 0.0, 0.0)
    assert beside.invited[-1] == 0


def test_nobody_gives_a_place_while_all_are_served(shared_door, clock):
    intervals(shared_door, clock, 0.0)
    assert places(shared_door) == 0


@pytest.fixture(scope="module")
def app(module_url, app_settings):
    return create_app(app_settings.model_copy(update={"cors_origins": "https://shop.example"}), database_url=module_url)


@pytest.fixture(scope="module")
def client(app):
    with serving(app) as address, httpx.Client(base_url=address, timeout=20) as http:
        yield http


@pytest.fixture
def crowd(app, client):
    """More writes are in the server's hands than it takes."""
    visits = come(app.state.server.door, 2000)
    yield visits
    for visit in visits:
        visit.leave()


@pytest.fixture
def wire(client):
    """A connection on which bytes are sent and answers read."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=5) as connection:
        yield connection


@pytest.fixture(scope="module")
def hasty(module_url, app_settings):
    """A server that waits for half a second only, and holds a megabyte of what has not come whole."""
    app = create_app(app_settings, database_url=module_url)
    with serving(app) as address:
        app.state.server.door.unfinished.patience_s = 0.5
        app.state.server.door.unfinished.most_bytes = 1_000_000
        yield SimpleNamespace(url=httpx.URL(address), door=app.state.server.door)


@pytest.fixture
def patient(hasty):
    """The same, which waits longer."""
    before, hasty.door.unfinished.patience_s = hasty.door.unfinished.patience_s, 3.0
    yield hasty
    hasty.door.unfinished.patience_s = before


@contextmanager
def connected(hasty, count=1):
    """So many connections on which bytes are sent and answers read."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((hasty.url.host, hasty.url.port), timeout=20))
            for _ in range(count)
        ]


def counted(hasty, name):
    lines = httpx.get(hasty.url.join("/metrics")).text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def rows(module_url):
    engine = create_engine(module_url)
    with engine.connect() as conn:
        found = conn.execute(select(func.count()).select_from(inference)).scalar_one()
    engine.dispose()
    return found


NOBODY = "01900000-0000-7000-8000-000000000000"  # fixed: workers must collect the same names
WRITES = (
    ("POST", "/v1/inferences", EVENT),
    ("POST", "/v1/inferences:batch", {"data": [EVENT]}),
    ("POST", "/v1/feedback", {"inference_id": str(uuid4()), "value": "up"}),
    ("PUT", f"/v1/feedback/{NOBODY}", {"value": "up"}),
    ("DELETE", f"/v1/feedback/{NOBODY}", None),
)


@pytest.mark.parametrize(("method", "path", "body"), WRITES, ids=[f"{m} {p[:20]}" for m, p, _ in WRITES])
def test_a_refused_write_is_answered_like_every_error_and_says_when_to_come_again(client, crowd, method, path, body):
    answer = client.request(method, path, json=body)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["code"], answer.json()["status"]) == ("overloaded", 429)
    assert "connection" not in answer.headers


READS = ("/healthz", "/readyz", "/metrics", "/v1/inferences", "/v1/feedback", f"/v1/inferences/{NOBODY}")


@pytest.mark.parametrize("path", READS, ids=lambda path: path[:16])
def test_reads_and_health_are_never_refused(client, crowd, path):
    assert client.get(path).status_code in (200, 404)


def test_decisions_are_never_refused(client, crowd):
    assert client.post("/v1/route", json={"query": "where is my parcel", "log": False}).status_code == 200


def test_a_server_knows_whether_a_decision_is_all_that_it_has_to_do(app, client, monkeypatch):
    state, seen = app.state.server, []
    (reader,) = state.deciding._encodings.values()
    monkeypatch.setattr(reader, "_alone", lambda: seen.append(state.door.alone) or seen[-1])
    client.post("/v1/route", json={"query": "where is the parcel that nobody asked for", "log": False})
    assert set(seen) == {True}
    monkeypatch.setattr(state.door, "under_way", (*state.door.under_way, object(), object()))
    client.post("/v1/route", json={"query": "where is the other parcel that nobody asked for", "log": False})
    assert not seen[-1]


def test_refused_writes_are_counted_and_nothing_of_them_is_stored(client, crowd, module_url):
    counted = 'trimtab_requests_total{path="/v1/inferences",status="429"} '

    def figures():
        lines = client.get("/metrics").text.splitlines()
        names = (counted, "trimtab_events_shed ", "trimtab_events_received ")
        return [next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0) for name in names]

    before, stored = figures(), rows(module_url)
    assert [client.post("/v1/inferences", json=EVENT).status_code for _ in range(3)] == [429] * 3
    assert [after - old for after, old in zip(figures(), before, strict=True)] == [3, 3, 0]
    assert rows(module_url) == stored


def test_a_connection_goes_on_after_a_refusal_also_when_the_request_comes_in_pieces(wire, crowd):
    for byte in post(LENGTH):
        wire.sendall(bytes([byte]))
        time.sleep(0.001)
    assert answers(wire, 1) == [429]
    wire.sendall(HEALTH)
    assert answers(wire, 1) == [200]
    wire.sendall(post(LENGTH))
    assert answers(wire, 1) == [429]


def test_what_looks_like_a_request_within_a_body_is_a_body(wire, crowd):
    inner = post(LENGTH)
    wire.sendall(post(f"Content-Length: {len(inner)}", body=b""))
    assert answers(wire, 1) == [429]
    wire.sendall(inner)
    wire.sendall(HEALTH)
    assert answers(wire, 1) == [200]


ODD_HEADERS = {
    "two lengths": (f"{LENGTH}\r\nContent-Length: 5", [400, 0]),
    "length and chunks": (f"{LENGTH}\r\nTransfer-Encoding: chunked", [400, 0]),
    "a length of letters": ("Content-Length: abc", [400, 0]),
    "a folded header": (f"{LENGTH}\r\nX-Y: a\r\n Content-Length: 5", [400, 0]),
    "a header without a name": (f"{LENGTH}\r\n: x", [400, 0]),
    "a NUL": (f"{LENGTH}\r\nX-Y: a\0b", [400, 0]),
}


@pytest.mark.parametrize(("headers", "expected"), ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_a_full_server_reads_odd_requests_as_an_empty_one_does(wire, crowd, headers, expected):
    wire.sendall(post(headers))
    assert answers(wire, 2) == expected


@pytest.mark.parametrize("sent", ["post /v1/inferences", "POST /V1/INFERENCES", "POST /v1/inferences2"])
def test_what_is_no_write_of_ours_is_not_refused_as_one(wire, crowd, sent):
    wire.sendall(post(LENGTH).replace(b"POST /v1/inferences", sent.encode()))
    assert answers(wire, 1)[0] in (400, 404)


def test_a_connection_that_is_refused_again_and_again_stays_and_an_idle_one_is_closed(module_url, app_settings):
    app = create_app(app_settings, database_url=module_url)
    with serving(app, keep_alive_seconds=1) as address:
        come(app.state.server.door, 2000)
        url = httpx.URL(address)
        with socket.create_connection((url.host, url.port), timeout=5) as wire:
            for _ in range(6):
                wire.sendall(post(LENGTH))
                assert answers(wire, 1) == [429]
                time.sleep(0.3)
            assert answers(wire, 1) == [0]


def test_requests_sent_at_once_are_answered_in_their_order(wire, crowd):
    wire.sendall(post(LENGTH) + HEALTH + post(LENGTH) + post(LENGTH) + HEALTH)
    assert answers(wire, 5)[:2] == [429, 200]


def test_a_write_behind_an_unanswered_one_waits_for_its_turn(wire, crowd):
    slow = b'{"query": "where is my parcel, which I sent last week"}'
    route = post(f"Content-Length: {len(slow)}", path="/v1/route", body=slow)
    wire.sendall(route + post(LENGTH))
    assert answers(wire, 2)[0] == 200


@pytest.mark.parametrize(
    "sent",
    {
        "the client waits for 100": post(LENGTH, "Expect: 100-continue", body=b""),
        "chunks": post("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"),
        "a body of 2 GB": post("Content-Length: 2000000000"),
        "the client closes": post(LENGTH, "Connection: close"),
        "HTTP/1.0": post(LENGTH, version="1.0"),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_connection_is_closed_when_the_end_of_the_refused_request_is_not_near(wire, crowd, sent):
    wire.sendall(sent[1])
    assert answers(wire, 2) == [429, 0]


def test_what_was_sent_behind_the_last_request_of_a_connection_is_not_answered(wire, crowd):
    wire.sendall(post(LENGTH, "Connection: close") + HEALTH)
    assert answers(wire, 2) == [429, 0]


def test_a_vote_from_a_web_page_is_answered_by_the_rules_of_browsers(client, crowd):
    origin = {"Origin": "https://shop.example"}
    answer = client.post("/v1/feedback", json={"inference_id": str(uuid4()), "value": "up"}, headers=origin)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (202, "https://shop.example")


def test_clients_that_leave_in_the_middle_leave_nothing_in_hand(app, client):
    door = app.state.server.door
    for cut in (1, 20, len(post(LENGTH))):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as gone:
            gone.sendall(post(LENGTH)[:cut])
    while door.overloaded:  # after the tests before
        time.sleep(INTERVAL_S)
        door.look_back()
    with httpx.Client(base_url=client.base_url, timeout=20) as fresh:  # the other's connection may still be refused
        assert fresh.post("/v1/inferences", content=BODY[:-1]).status_code == 422
        assert fresh.post("/v1/inferences", json=EVENT).status_code == 201
    deadline = time.monotonic() + 5
    while (door.requests, door.bytes) != (0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.01)


SILENT = {
    "nothing": b"",
    "a blank line": b"\r\n",
    "half a head": post(LENGTH)[:50],
    "a blank line after an answer": HEALTH + b"\r\n",
    "half a head behind an answer": HEALTH + post(LENGTH)[:50],
}


@pytest.mark.parametrize("sent", SILENT.values(), ids=SILENT)
def test_a_connection_that_brings_no_whole_head_is_closed(hasty, sent):
    with connected(hasty) as (wire,):
        wire.sendall(sent[: len(HEALTH)])
        if sent.startswith(HEALTH):
            assert answers(wire, 1) == [200]
            wire.sendall(sent[len(HEALTH) :])
        assert answers(wire, 1) == [0]


BODIES_CUT_SHORT = {
    "nothing of it": post(LENGTH, body=b""),
    "half of it": post(LENGTH)[:-20],
    "half a chunk": post("Transfer-Encoding: chunked", body=b"ff\r\nhello"),
    "after the client was told to go on": post(LENGTH, "Expect: 100-continue", body=b""),
}


@pytest.mark.parametrize("sent", BODIES_CUT_SHORT.values(), ids=BODIES_CUT_SHORT)
def test_a_body_that_does_not_come_whole_in_time_is_answered_408_and_the_connection_closed(hasty, sent):
    slow = 'trimtab_requests_total{path="/v1/inferences",status="408"}'
    before = counted(hasty, slow)
    with connected(hasty) as (wire,):
        wire.sendall(sent)
        got = b""
        while chunk := wire.recv(65_536):
            got += chunk
    got = got.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert {b"content-type: application/problem+json", b"connection: close"} <= set(head.split(b"\r\n"))
    assert b'"code":"too_slow"' in body
    assert counted(hasty, slow) == before + 1


def test_slow_clients_have_the_whole_time_for_each_request_and_who_goes_on_asking_stays(patient):
    with connected(patient, 2) as (slow, busy):
        for _ in range(4):
            for piece in (post(LENGTH)[:50], post(LENGTH)[50:-20], post(LENGTH)[-20:]):
                slow.sendall(piece)
                busy.sendall(HEALTH)
                assert answers(busy, 1) == [200]
                time.sleep(0.3)
            assert answers(slow, 1) == [201]


def test_where_unfinished_bodies_are_too_much_together_the_largest_is_refused_and_the_others_are_served(patient):
    hasty, unfinished = patient, patient.door.unfinished
    unfinished.patience_s = 60.0
    shed = counted(hasty, "trimtab_events_shed")
    refused = 'trimtab_requests_total{path="/v1/inferences",status="429"}'
    before = counted(hasty, refused)
    with connected(hasty, 4) as (small, *large):
        small.sendall(post(LENGTH)[:-20])
        sizes = (320_000, 380_000, 330_000)
        for i, (size, each) in enumerate(zip(sizes, large, strict=True)):
            while unfinished.bytes < sum(sizes[:i]):
                time.sleep(0.01)
            each.sendall(post("Content-Length: 400000", body=b" " * size))
        got = large[1].recv(65_536)
        assert got.startswith(b"HTTP/1.1 429 ")
        assert {b"retry-after: 1", b"connection: close"} <= set(got.lower().split(b"\r\n"))
        for size, each in zip(sizes[::2], large[::2], strict=True):
            each.sendall(BODY + b" " * (400_000 - size - len(BODY)))
            assert answers(each, 1) == [201]
        small.sendall(post(LENGTH)[-20:])
        assert answers(small, 1) == [201]
    assert (counted(hasty, refused) - before, counted(hasty, "trimtab_events_shed") - shed) == (1, 1)


def test_what_was_refused_before_its_end_is_let_go_at_once(patient):
    gc.disable()
    try:
        before = private_mib(os.getpid())
        with connected(patient, 200) as wires:
            for wire in wires:
                wire.sendall(post("Content-Length: 800000", body=b" " * 799_999))
            assert sum(wire.recv(12) == b"HTTP/1.1 429" for wire in wires[:190]) == 190
            assert private_mib(os.getpid()) - before < 30  # of 160
    finally:
        gc.enable()


def test_a_body_that_was_answered_before_its_end_is_read_past_and_not_held(hasty):
    with connected(hasty) as (wire,):
        wire.sendall(post("Content-Length: 3000000", body=b"").replace(b"application/json", b"text/plain"))
        assert answers(wire, 1) == [415]
        for _ in range(29):
            wire.sendall(b" " * 100_000)
            assert hasty.door.unfinished.bytes < 100_000
        wire.sendall(b" " * 100_000 + HEALTH)
        assert answers(wire, 1) == [200]


def test_nothing_is_owed_by_those_who_have_gone(hasty):
    with connected(hasty, 20) as wires:
        for wire in wires:
            wire.sendall(post(LENGTH)[:-20])
    deadline = time.monotonic() + 5
    unfinished = hasty.door.unfinished
    while unfinished.bytes or unfinished._since:
        assert time.monotonic() < deadline
        time.sleep(0.01)
