"""What a decision costs: ``python -m benchmarks.decide`` (``--only encoder throughput repeats centroids memory``).

``encoder`` and ``throughput`` put ``/v1/route`` of the real server beside the bare encoder on the same queries, turn by
turn, so that both meet the same machine; no query comes twice. ``centroids`` decides with the embedding given.
"""

import argparse
import asyncio
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from api.deciding import Deciding, Question
from benchmarks.load_client import request
from benchmarks.random_router import random_router
from benchmarks.real_server import RealServer, own_folder, play, private_mib, served
from benchmarks.report import BenchmarkReport, Row
from router.arms import Arms
from router.decide import decide
from router.encoder import Encoder, Encoding, load_encoder
from router.scoring import Router
from telemetry.ids import new_id

_CLIENTS = 32
_DIMENSION = 384
_SHOWN = ("rate", "p50_ms", "p99_ms", "ratio", "cpu_us", "memory_mib", "grown_mib", "load")
_ASKED = ("where is", "why was I charged for", "how do I change", "please cancel", "I cannot find", "who can repair")
_THINGS = ("my parcel", "the second invoice", "my password", "the blue coat", "a refund", "the courier", "my address")
_ENDS = ("of last week", "from Lisbon", "before Monday", "that my sister ordered", "on the website", "again")
_Found = Iterator[tuple[str, dict[str, float]]]


def distinct_queries(count: int, *, seed: int) -> list[str]:
    """Questions of seven to fifteen words, none of them twice."""
    rng = np.random.default_rng(seed)
    picked = [[part[i] for i in rng.integers(len(part), size=count)] for part in (_ASKED, _THINGS, _ENDS)]
    numbers = rng.permutation(count * 10)[:count]
    return [f"{asked} {thing} {end}, number {n}" for asked, thing, end, n in zip(*picked, numbers, strict=True)]


class OneClient:
    """A connection that sends one query at a time and does not look into the answer."""

    def __init__(self, server: RealServer) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, query: str) -> None:
        """Send a query and wait for the whole answer."""
        self._socket.sendall(request("POST", "/v1/route", f'{{"query": "{query}"}}'.encode()))
        got = b""
        while (end := got.find(b"\r\n\r\n")) < 0 or len(got) < end + 4 + _length(got[:end]):
            got += self._socket.recv(1 << 16)
        if not got.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(got[:300].decode())


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def _described(milliseconds: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99)).tolist()
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "load": os.getloadavg()[0]}


def _encoder(server: RealServer, encoder: Encoder, options: argparse.Namespace) -> _Found:
    """One client: the call and the bare forward pass, each in turn first."""
    client, bare, routed = OneClient(server), [], []
    for query in distinct_queries(20, seed=1):
        client.ask(query)
        encoder.encode([query])
    for i, query in enumerate(distinct_queries(options.queries, seed=2)):
        if i % 2:
            bare.append(_timed(lambda q=query: encoder.encode([q])))  # type: ignore[misc]
        routed.append(_timed(lambda q=query: client.ask(q)))  # type: ignore[misc]
        if not i % 2:
            bare.append(_timed(lambda q=query: encoder.encode([q])))  # type: ignore[misc]
    yield "bare encoder, one query", _described(bare)
    pairs = statistics.median(r / b for r, b in zip(routed, bare, strict=True))
    ratio = statistics.median(routed) / statistics.median(bare)
    yield "route, one client", {**_described(routed), "ratio": ratio, "ratio_of_pairs": pairs}


def _throughput(server: RealServer, encoder: Encoder, options: argparse.Namespace) -> _Found:
    """32 clients, and the same queries in batches of 32, in turns of some hundred queries."""
    turns: list[tuple[float, float]] = []
    before = server.cpu_seconds()
    for turn in range(options.turns):
        queries = distinct_queries(10 * _CLIENTS, seed=100 + turn)
        requests = [["POST", "/v1/route", f'{{"query": "{query}"}}'] for query in queries]
        plan: dict[str, Any] = {"kind": "given", "port": server.port, "requests": requests, "connections": _CLIENTS}
        seen = play({**plan, "most": len(queries), "seconds": 120})
        if seen["good"]["count"] < len(queries):
            raise RuntimeError(f"/v1/route answered {seen['statuses']}")
        batches = [queries[at : at + _CLIENTS] for at in range(0, len(queries), _CLIENTS)]
        took = sum(_timed(lambda b=batch: encoder.encode(b)) for batch in batches)  # type: ignore[misc]
        turns.append((len(queries) / seen["seconds"], len(queries) / took * 1e3))
    spent = (server.cpu_seconds() - before) / (options.turns * 10 * _CLIENTS) * 1e6
    load = {"load": os.getloadavg()[0]}
    yield "bare encoder, batches of 32", {"rate": statistics.median(bare for _, bare in turns), **load}
    ratio = statistics.median(routed / bare for routed, bare in turns)
    rate = statistics.median(routed for routed, _ in turns)
    yield "route, 32 clients", {"rate": rate, "ratio": ratio, "cpu_us": spent, **load}


def _repeats(server: RealServer, _encoder: Encoder, options: argparse.Namespace) -> _Found:
    """The same queries again and again, open-loop: the encodings are kept, so the decision is all there is to do."""
    requests = [["POST", "/v1/route", f'{{"query": "{query}"}}'] for query in distinct_queries(200, seed=3)]
    plan: dict[str, Any] = {"kind": "given", "port": server.port, "requests": requests, "connections": 64}
    play({**plan, "most": 400, "seconds": 60})
    for rate in options.rates:
        memory, before = server.memory_mib(), server.cpu_seconds()
        seen = play({**plan, "rate": rate, "seconds": options.seconds})
        done = seen["good"]["count"]
        yield (
            f"route, repeats, {rate:g}/s",
            {
                "rate": seen["good_in_time"] / seen["seconds"],
                **{f"{share}_ms": seen["good"][share] for share in ("p50", "p95", "p99")},
                "cpu_us": (server.cpu_seconds() - before) / max(1, done) * 1e6,
                "failed": seen["sent"] - done,
                "memory_mib": server.memory_mib(),
                "grown_mib": server.memory_mib() - memory,
                "load": os.getloadavg()[0],
            },
        )


def _centroids(options: argparse.Namespace) -> _Found:
    """Decisions in this process with the embedding given, a router of few and of many centroids."""
    rng = np.random.default_rng(4)
    for count in options.centroids:
        router = random_router(centroids=count, routes=options.routes, dimension=_DIMENSION, rng=rng)
        X = rng.normal(size=(options.decisions + 50, _DIMENSION)).astype(np.float32)

        def one(x: npt.NDArray[np.float32], router: Router = router) -> None:
            given = Encoding(embedding=x)
            decide(router, "a question", given, encode=_never, inference_id=new_id(), rng=rng)

        took = [_timed(lambda x=x: one(x)) for x in X]  # type: ignore[misc]
        yield f"decision, {count:,} centroids", _described(took[50:])


def _never(_texts: Sequence[str]) -> list[Encoding]:
    return []


class _DrawnEncoder(Encoder):
    """Embeddings out of thin air, so that a million decisions take minutes."""

    def __init__(self, dimension: int) -> None:
        self._rng, self.dimension, self.fingerprint = np.random.default_rng(5), dimension, "benchmark"

    def encode(self, texts: Sequence[str], *, hidden: bool = False) -> list[Encoding]:
        X = self._rng.normal(size=(len(texts), self.dimension)).astype(np.float32)
        tokens = np.zeros((12, 3 * self.dimension), np.float32) if hidden else None
        return [Encoding(embedding=row, hidden=None if tokens is None else tokens.copy()) for row in X]


def _memory(options: argparse.Namespace) -> _Found:
    """Decisions as the server makes them, each with a query of its own and every second with a session of its own."""
    rng = np.random.default_rng(6)
    router = random_router(centroids=300, routes=options.routes, dimension=_DIMENSION, rng=rng)
    deciding = Deciding(_DrawnEncoder(_DIMENSION), arms=lambda: Arms(main=router), remember=timedelta(minutes=30))
    marks: list[float] = []

    async def some(first: int, count: int) -> None:
        for at in range(first, first + count, _CLIENTS):
            questions = [
                Question(query=f"query {n}", session_id=f"s-{n}" if n % 2 else None) for n in range(at, at + _CLIENTS)
            ]
            await asyncio.gather(*(deciding.decide(question) for question in questions))

    tenth = options.memory_decisions // 10
    for mark in range(10):
        asyncio.run(some(mark * tenth, tenth))
        marks.append(private_mib(os.getpid()))
    deciding.close()
    found = {f"after_{10 * (i + 1)}_percent_mib": mib for i, mib in enumerate(marks)}
    grown = {"memory_mib": marks[-1], "grown_mib": marks[-1] - marks[4], "load": os.getloadavg()[0]}
    yield f"memory, {options.memory_decisions:,} decisions", {**found, **grown}


_SERVED = {"encoder": _encoder, "throughput": _throughput, "repeats": _repeats}
_ALONE = {"centroids": _centroids, "memory": _memory}


def _measure(options: argparse.Namespace) -> _Found:
    served_ones = [name for name in options.only if name in _SERVED]
    if served_ones:
        with own_folder("decide") as folder, served(folder=folder) as server:
            encoder = load_encoder(home=server.home)
            for name in served_ones:
                yield from _SERVED[name](server, encoder, options)
    for name in options.only:
        if name in _ALONE:
            yield from _ALONE[name](options)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the scenarios, print the table and write the figures."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    for repeat in range(options.repeats):
        for name, metrics in _measure(options):
            rows.append(Row(name=name, repeat=repeat, metrics=metrics))
            print(name, {key: round(value, 3) for key, value in metrics.items()}, flush=True)
        report = BenchmarkReport(benchmark="decide", args=vars(options), rows=rows)
        if options.json:
            report.write_json(options.json)
    report.print_table([metric for metric in _SHOWN if any(metric in row.metrics for row in rows)])


def _parser() -> argparse.ArgumentParser:
    names = [*_SERVED, *_ALONE]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="scenarios")
    parser.add_argument("--queries", type=int, default=300, help="of one client")
    parser.add_argument("--turns", type=int, default=5, help="of 320 queries by 32 clients")
    parser.add_argument("--rates", type=float, nargs="+", default=[1000], help="repeated queries a second")
    parser.add_argument("--seconds", type=float, default=15, help="of repeated queries")
    parser.add_argument("--centroids", type=int, nargs="+", default=[300, 10_000])
    parser.add_argument("--routes", type=int, default=20)
    parser.add_argument("--decisions", type=int, default=3000, help="with the embedding given")
    parser.add_argument("--memory-decisions", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


if __name__ == "__main__":
    main()
