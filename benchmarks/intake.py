"""What intake bears: ``python -m benchmarks.intake`` (``--only single batch feedback overload read peers``).

The real server with its embedded Postgres, and a load client in a process of its own, on this machine. Every id that
was acknowledged is looked for in Postgres afterwards: ``lost`` and ``duplicates`` must be 0. ``cpu_us`` is what API and
Postgres spend on an event, which other programs hardly change; ``load`` is the machine's load average then. What was
shed is told three times: from when it was due (``shed``), the load client's own queue for a connection included; from
its sending; and as a process beside sees it that sends a few events and waits for nothing else (``refusal``).
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.intake_peers import measure_peers
from benchmarks.intake_reading import measure_reading
from benchmarks.load_client import fresh_id
from benchmarks.real_server import RealServer, fetch, own_folder, play, served
from benchmarks.report import BenchmarkReport, Row

BATCH = 100
_CLOSED = 64
_OVERLOAD = 4
_PROBE = {"kind": "given", "rate": 100.0, "connections": 16}
_SHOWN = (
    *("rate", "p50_ms", "p95_ms", "p99_ms", "cpu_us", "lost", "duplicates"),
    *("shed", "shed_p99_ms", "shed_since_sent_p99_ms", "refusal_p99_ms", "load"),
)
_TABLE = {"single": "inference", "batch": "inference", "feedback": "feedback"}
_next_first = iter(range(10**7, 26 * 10**7, 10**7))


class Ledger:
    """What is in the table before a run, and what of the acknowledged is there after it."""

    def __init__(self, server: RealServer, kind: str, folder: Path) -> None:
        self._connection = psycopg.connect(server.database_url, autocommit=True)
        self._table = _TABLE[kind]
        self.path = folder / "acknowledged.txt"
        self._before = self._settled()

    def _count(self) -> int:
        row = self._connection.execute(f"select count(*) from {self._table}").fetchone()  # noqa: S608
        return int(row[0]) if row else 0

    def _settled(self) -> int:
        """The count once it stands still: what an earlier run gave up waiting for may still be stored."""
        before, now = -1, self._count()
        while now != before:
            time.sleep(0.3)
            before, now = now, self._count()
        return now

    def check(self, *, sent: int) -> dict[str, float]:
        """How many acknowledged events are not there, and how many rows are there twice or were never sent."""
        with self._connection.cursor() as cursor:
            cursor.execute("create temp table acknowledged (id uuid)")
            with cursor.copy("copy acknowledged from stdin") as copy:
                copy.write(self.path.read_bytes())
            found = cursor.execute(
                "select count(distinct a.id), count(distinct t.id), count(t.id)"  # noqa: S608
                f" from acknowledged a left join (select {self._table}_id as id from {self._table}) t on t.id = a.id"
            ).fetchone()
            cursor.execute("drop table acknowledged")
        told, there, rows = found or (0, 0, 0)
        grown = self._count() - self._before
        self._connection.close()
        return {"lost": float(told - there), "duplicates": float(rows - there + max(0, grown - sent))}


def measure(server: RealServer, kind: str, *, folder: Path, **plan: Any) -> dict[str, float]:
    """Play one plan of a kind and return its metrics."""
    each = BATCH if kind == "batch" else 1
    ledger = Ledger(server, kind, folder)
    api, postgres = server.split_cpu_seconds()
    load = os.getloadavg()[0]
    whole = {"kind": kind, "port": server.port, "batch": BATCH, "first": next(_next_first), "ledger": str(ledger.path)}
    seen = play({**whole, **plan})
    load = max(load, os.getloadavg()[0])
    api_after, postgres_after = server.split_cpu_seconds()
    events = max(1, seen["acknowledged"])
    spent = {
        "cpu_api_us": (api_after - api) / events * 1e6,
        "cpu_postgres_us": (postgres_after - postgres) / events * 1e6,
    }
    return {
        "rate": seen["acknowledged_in_time"] / seen["seconds"],
        **{f"{name}_ms": seen["good"][name] for name in ("p50", "p95", "p99")},
        "cpu_us": sum(spent.values()),
        **spent,
        **ledger.check(sent=seen["sent"] * each),
        "shed": seen["shed"]["count"],
        "shed_p99_ms": seen["shed"]["p99"],
        "shed_since_sent_p99_ms": seen["shed_since_sent"]["p99"],
        "shed_without_retry_after": float(seen["without_retry_after"]),
        "failed": float(sum(n for status, n in seen["statuses"].items() if status[0] not in "24")),
        "unanswered": float(seen["unanswered"]),
        "client_late_p99_ms": seen["sent_late"]["p99"],
        "client_cpu_us": seen["cpu_seconds"] / events * 1e6,
        "memory_mib": server.memory_mib(),
        "load": load,
    }


def _single(server: RealServer, options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    for rate in options.rates:
        yield f"single {rate:g}/s", measure(server, "single", folder=folder, rate=rate, seconds=options.seconds)
    yield "single, all it can", measure(server, "single", folder=folder, connections=_CLOSED, seconds=options.seconds)


def _batch(server: RealServer, options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    for rate in options.batch_rates:
        plan = {"rate": rate / BATCH, "seconds": options.seconds}
        yield f"batch {rate:g}/s", measure(server, "batch", folder=folder, **plan)
    yield "batch, all it can", measure(server, "batch", folder=folder, connections=8, seconds=options.seconds)


def _feedback(server: RealServer, options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    plan = {"targets": _some_inferences(server, folder), "seconds": options.seconds}
    for rate in options.rates:
        yield f"feedback {rate:g}/s", measure(server, "feedback", folder=folder, rate=rate, **plan)
    yield "feedback, all it can", measure(server, "feedback", folder=folder, connections=_CLOSED, **plan)


def _some_inferences(server: RealServer, folder: Path) -> list[str]:
    measure(server, "batch", folder=folder, connections=1, most=20, seconds=20)
    return (folder / "acknowledged.txt").read_text().split()


def _overload(server: RealServer, options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Four times what it can, open-loop: how much of its peak it still does, how soon it says no to the rest."""
    for kind, each, connections in (("batch", BATCH, 8), ("single", 1, _CLOSED)):
        peak = measure(server, kind, folder=folder, connections=connections, seconds=options.overload_seconds)
        yield f"peak {kind}", peak
        plan = {"connections": 256 if each > 1 else 512, "rate": _OVERLOAD * peak["rate"] / each}
        with _probe(server, seconds=options.overload_seconds) as probe:
            found = measure(server, kind, folder=folder, seconds=options.overload_seconds, **plan)
        refused = probe.result()["shed_since_sent"]
        found |= {"refusals": refused["count"], "refusal_p50_ms": refused["p50"], "refusal_p99_ms": refused["p99"]}
        found |= {"goodput": found["rate"] / peak["rate"], "memory_grown_mib": found["memory_mib"] - peak["memory_mib"]}
        yield f"overload {kind}", found


@contextmanager
def _probe(server: RealServer, *, seconds: float) -> Iterator["Future[dict[str, Any]]"]:
    """Send one and the same event again and again beside the load: it is stored at most once."""
    event = {"inference_id": fresh_id(next(_next_first)), "query": "where is my parcel"}
    fetch(server.port, "/v1/inferences", event)
    plan = {**_PROBE, "port": server.port, "seconds": seconds}
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(play, {**plan, "requests": [["POST", "/v1/inferences", json.dumps(event)]]})


def _read(server: RealServer, options: argparse.Namespace, _folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    return measure_reading(server, rows=options.read_rows)


def _peers(server: RealServer, options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    targets = _some_inferences(server, folder)
    plan = {"connections": 16, "seconds": options.peer_seconds}
    ours = measure(server, "feedback", folder=folder, targets=targets, **plan)
    yield "trimtab feedback", ours
    theirs = dict(measure_peers(folder=options.peer_folder or folder, **plan))
    yield from theirs.items()
    if theirs:
        best = max(found["rate"] for found in theirs.values())
        yield "trimtab / better peer", {"rate": ours["rate"] / best}


_Scenario = Callable[[RealServer, argparse.Namespace, Path], Iterator[tuple[str, dict[str, float]]]]
SCENARIOS: dict[str, _Scenario] = {
    "single": _single,
    "batch": _batch,
    "feedback": _feedback,
    "overload": _overload,
    "read": _read,
    "peers": _peers,
}


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[RealServer, Path]]:
    with own_folder("intake") as folder, served(folder=folder, arguments=("--workers", str(options.workers))) as server:
        yield server, folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the scenarios, each on a fresh server, print the table and write the figures."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    for repeat in range(options.repeats):
        for scenario in options.only:
            with _server(options) as (server, folder):
                for name, metrics in SCENARIOS[scenario](server, options, folder):
                    rows.append(Row(name=name, repeat=repeat, metrics=metrics))
                    print(name, {key: round(value, 2) for key, value in metrics.items()}, flush=True)
            report = BenchmarkReport(benchmark="intake", args=vars(options), rows=rows)
            if options.json:
                report.write_json(options.json)
    report.print_table([metric for metric in _SHOWN if any(metric in row.metrics for row in rows)])
    wrong = sum(row.metrics.get("lost", 0) + row.metrics.get("duplicates", 0) for row in rows)
    if wrong:
        raise SystemExit(f"{wrong:.0f} acknowledged events were lost or are there twice.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS), help="scenarios")
    parser.add_argument("--seconds", type=float, default=20, help="of each rate; 300 for the promised five minutes")
    parser.add_argument("--overload-seconds", type=float, default=15)
    parser.add_argument("--rates", type=float, nargs="+", default=[1000, 2000], help="single events a second")
    parser.add_argument("--batch-rates", type=float, nargs="+", default=[10_000, 20_000], help="events a second")
    parser.add_argument("--read-rows", type=int, default=1_000_000, help="logged inferences when reading is timed")
    parser.add_argument("--peer-seconds", type=float, default=10)
    parser.add_argument("--peer-folder", type=Path, help="where the peers' environments are kept (else made anew)")
    parser.add_argument("--workers", type=int, default=1, help="server processes")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


if __name__ == "__main__":
    main()
