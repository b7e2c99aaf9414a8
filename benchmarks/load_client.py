"""One process of load: reads a plan as JSON from stdin, plays it over raw sockets, writes what it saw as JSON.

With a rate, arrivals are open-loop: they come at random moments (Poisson) whatever the answers do, and a latency counts
from the moment at which the request was due, also while it waits for a free connection. What was shed is told from its
sending too: the rest is this client's own queue. Without a rate every connection sends its next request when it has its
answer. It imports nothing of the server.
"""

import asyncio
import gc
import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import uvloop

Maker = Callable[[], tuple[bytes, list[str]]]
_RUN = f"{random.SystemRandom().getrandbits(32):08x}"
_GIVE_UP_S = 10.0
# Waking up for every request would cost more than the request; what is late by so much counts as latency.
_TICK_S = 0.001
_WORDS = (
    *("where", "is", "my", "parcel", "refund", "invoice"),
    *("password", "change", "charged", "twice", "address", "order"),
)


def fresh_id(sequence: int) -> str:
    """An id of version 7 whose random part is a number of this run: cheap, unique, in the order of time."""
    now = f"{time.time_ns() // 1_000_000:012x}"
    return f"{now[:8]}-{now[8:]}-7{sequence & 0xFFF:03x}-8{_RUN[:3]}-{_RUN[3:]}{sequence & 0xFFFFFFF:07x}"


def request(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    """One HTTP request with its body."""
    usual = "host: 127.0.0.1:80\r\nconnection: keep-alive\r\ncontent-type: application/json\r\n"
    head = f"{method} {path} HTTP/1.1\r\n{usual}{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _event(sequence: int) -> tuple[str, str]:
    """An inference as a gateway logs it: ids, query, decision, model, tokens, cost, times."""
    own = fresh_id(sequence)
    query = f"{_WORDS[sequence % 12]} {_WORDS[sequence // 12 % 12]} {_WORDS[sequence // 144 % 12]} number {sequence}"
    body = (
        f'{{"inference_id":"{own}","session_id":"s-{sequence // 4}","end_user":"u-{sequence % 5000}","query":"{query}",'
        '"decision":{"route":"billing","score":0.91,"propensity":1.0},"request_model":"billing-slm",'
        f'"response_model":"billing-slm-1.5b","input_tokens":{sequence % 90},"output_tokens":140,"cost":0.00013,'
        '"duration_ms":830.5,"ttft_ms":90.25,"finish_reason":"stop"}'
    )
    return own, body


def _singles(plan: dict[str, Any]) -> Maker:
    numbers = count(plan["first"])

    def make() -> tuple[bytes, list[str]]:
        own, body = _event(next(numbers))
        return request("POST", "/v1/inferences", body.encode()), [own]

    return make


def _batches(plan: dict[str, Any]) -> Maker:
    numbers = count(plan["first"])

    def make() -> tuple[bytes, list[str]]:
        events = [_event(next(numbers)) for _ in range(plan["batch"])]
        body = f'{{"data":[{",".join(body for _, body in events)}]}}'
        return request("POST", "/v1/inferences:batch", body.encode()), [own for own, _ in events]

    return make


def _feedback(plan: dict[str, Any]) -> Maker:
    numbers, targets = count(plan["first"]), plan["targets"]

    def make() -> tuple[bytes, list[str]]:
        sequence = next(numbers)
        own = fresh_id(sequence)
        body = (
            f'{{"feedback_id":"{own}","inference_id":"{targets[sequence % len(targets)]}",'
            f'"value":"{"up" if sequence % 3 else "down"}","submitter":"u-{sequence % 5000}"}}'
        )
        return request("POST", "/v1/feedback", body.encode()), [own]

    return make


def _given(plan: dict[str, Any]) -> Maker:
    """Requests that the plan spells out, in turn: [method, path, body]; ``#`` in a body becomes a fresh number."""
    numbers, given = count(plan["first"]), plan["requests"]

    def make() -> tuple[bytes, list[str]]:
        sequence = next(numbers)
        method, path, body = given[sequence % len(given)]
        return request(method, path, body.replace("#", str(sequence)).encode(), plan.get("headers", "")), []

    return make


MAKERS = {"single": _singles, "batch": _batches, "feedback": _feedback, "given": _given}


@dataclass(slots=True)
class Seen:
    """What came back: milliseconds of good and of shed answers, statuses, the ids that were acknowledged."""

    good: list[float] = field(default_factory=list)
    shed: list[float] = field(default_factory=list)
    shed_since_sent: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    acknowledged: list[str] = field(default_factory=list)
    sent_late: list[float] = field(default_factory=list)
    without_retry_after: int = 0

    def note(self, status: int, head: bytes, body: bytes, *, due: float, sent: float, ids: list[str]) -> None:
        """Take down one answer."""
        self.statuses[str(status)] += 1
        now = time.perf_counter()
        milliseconds = (now - due) * 1e3
        if status in (200, 201, 202):
            self.good.append(milliseconds)
            self.acknowledged += ids
        elif status == 207:
            self.good.append(milliseconds)
            results = json.loads(body)["results"]
            self.acknowledged += [own for own, result in zip(ids, results, strict=True) if result["status"] < 300]
        elif status == 429:
            self.shed.append(milliseconds)
            self.shed_since_sent.append((now - sent) * 1e3)
            self.without_retry_after += b"retry-after:" not in head.lower()


class _Connection(asyncio.Protocol):
    """A kept-alive connection with at most one request under way."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._got = b""
        self._due = self._sent = 0.0
        self._ids: list[str] = []
        self.busy = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._load.freed(self)

    def send(self, due: float, data: bytes, ids: list[str]) -> None:
        self._due, self._sent, self._ids, self.busy = due, time.perf_counter(), ids, True
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._got = self._got + data if self._got else data
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._got[:end]
        at = head.lower().find(b"content-length:")
        size = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._got) < end + 4 + size:
            return
        body, self._got, self.busy = self._got[end + 4 : end + 4 + size], b"", False
        self._load.seen.note(int(head[9:12]), head, body, due=self._due, sent=self._sent, ids=self._ids)
        self._load.freed(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self._load.seen.statuses["lost"] += 1
        self._load.gone(self)


class Load:
    """Plays one plan."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._make = MAKERS[plan["kind"]](plan)
        self._free: deque[_Connection] = deque()
        self._due: deque[float] = deque()
        self._open = self._started = 0
        self._closed_loop = plan["rate"] is None
        self.running = False
        self.seen = Seen()

    def freed(self, connection: _Connection) -> None:
        """Take a connection back, and use it at once where something is due."""
        if self._due:
            self._send(connection, self._due.popleft())
        elif self.running and self._closed_loop and self._started < self._plan["most"]:
            self._send(connection, time.perf_counter())
        else:
            self._free.append(connection)

    def gone(self, connection: _Connection) -> None:
        """Forget a connection that was closed."""
        self._open -= 1
        if connection in self._free:
            self._free.remove(connection)

    def _send(self, connection: _Connection, due: float) -> None:
        data, ids = self._make()
        self._started += 1
        self.seen.sent_late.append((time.perf_counter() - due) * 1e3)
        connection.send(due, data, ids)

    async def play(self) -> dict[str, Any]:
        """Connect, play, wait for the last answers."""
        loop, plan = asyncio.get_running_loop(), self._plan
        for _ in range(plan["connections"]):
            await loop.create_connection(lambda: _Connection(self), plan["host"], plan["port"])
            self._open += 1
        self.running, began = True, time.perf_counter()
        await (self._answers(began) if self._closed_loop else self._arrivals(began))
        took, in_time = time.perf_counter() - began, (len(self.seen.good), len(self.seen.acknowledged))
        self.running = False
        give_up = time.perf_counter() + _GIVE_UP_S
        while (self._due or len(self._free) < self._open) and time.perf_counter() < give_up:
            await asyncio.sleep(0.01)
        unanswered = len(self._due) + self._open - len(self._free)
        self._due.clear()  # what answers come while the loop closes must not send what is left
        return {**self._result(took, unanswered), "good_in_time": in_time[0], "acknowledged_in_time": in_time[1]}

    async def _arrivals(self, began: float) -> None:
        draw, due, end = random.Random(self._plan["first"]), began, began + self._plan["seconds"]
        while (due := due + draw.expovariate(self._plan["rate"])) < end:
            while (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(max(wait, _TICK_S))
            if self._free:
                self._send(self._free.pop(), due)  # the one used last, as pools do
            else:
                self._due.append(due)
            if -wait > 0.002:  # behind: let answers in
                await asyncio.sleep(0)

    async def _answers(self, began: float) -> None:
        for connection in [self._free.popleft() for _ in range(len(self._free))]:
            self.freed(connection)
        end = began + self._plan["seconds"]
        while time.perf_counter() < end and not (self._started >= self._plan["most"] and len(self._free) == self._open):
            await asyncio.sleep(0.005)

    def _result(self, took: float, unanswered: int) -> dict[str, Any]:
        seen = self.seen
        if self._plan.get("ledger"):
            Path(self._plan["ledger"]).write_text("\n".join(seen.acknowledged), encoding="utf-8")
        return {
            "seconds": took,
            "sent": self._started,
            "unanswered": unanswered,
            "statuses": dict(seen.statuses),
            "acknowledged": len(seen.acknowledged),
            "good": described(seen.good),
            "shed": described(seen.shed),
            "shed_since_sent": described(seen.shed_since_sent),
            "sent_late": described(seen.sent_late),
            "without_retry_after": seen.without_retry_after,
            "cpu_seconds": time.process_time(),
        }


def described(values: Sequence[float]) -> dict[str, float]:
    """Count and percentiles."""
    ordered = sorted(values)
    found = {"count": float(len(ordered))}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999), ("most", 1.0)):
        found[name] = ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
    return found


def main() -> None:
    """Play the plan on stdin."""
    gc.disable()
    plan = json.loads(sys.stdin.read())
    print(json.dumps(uvloop.run(Load(plan).play())))


if __name__ == "__main__":
    main()
