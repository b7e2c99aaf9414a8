"""How long a rollback takes: from the call to the last replica's first decision by the old version.

Real ``trimtab serve`` processes on one database, each asked without a pause by a client of its own. The call goes to
the first of them; what counts is when the last of them answers by the old version, and that none goes forward again.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.report import BenchmarkReport, Row
from router.registry import active, load, publish
from telemetry import embedded_postgres
from telemetry.database import create_engine

_TRIMTAB = (sys.executable, "-m", "api.cli.main")
_START_SECONDS = 180.0
_PATIENCE_SECONDS = 10.0
_QUERY = "where is my parcel?"


def _call(address: str, path: str, body: dict[str, object]) -> dict[str, object]:
    request = urllib.request.Request(  # noqa: S310  # an address of ours
        f"{address}{path}", data=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as answer:  # noqa: S310
        return json.loads(answer.read())  # type: ignore[no-any-return]


@dataclass
class Asker:
    """Asks one replica without a pause; ``seen`` holds when each answer came (monotonic seconds), by which version."""

    address: str
    seen: list[tuple[float, int]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> int:
        """Ask once."""
        answer = _call(self.address, "/v1/route", {"query": _QUERY, "log": False})
        return int(answer["router_version"])  # type: ignore[call-overload, no-any-return]

    def run(self) -> None:
        """Ask until told to stop."""
        while not self.stop.is_set():
            version = self.ask()
            self.seen.append((time.monotonic(), version))


@contextmanager
def serving(home: Path, *, replica: int, url: str | None) -> Iterator[str]:
    """Run one server; yield its address as soon as it answers."""
    given = {"TRIMTAB_HOME": str(home), "OMP_NUM_THREADS": "1"} | ({"TRIMTAB_DATABASE_URL": url} if url else {})
    log = home / f"serve-{replica}.log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
    with log.open("wb") as file:
        command = [*_TRIMTAB, "serve", "--port", "0"]
        process = subprocess.Popen(command, env=clean | given, stdout=file, stderr=file, start_new_session=True)
    try:
        end = time.monotonic() + _START_SECONDS
        while True:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"A server did not start: {log.read_text(errors='replace')[-500:]}")
            if found := re.search(r"serves on (http://\S+)", log.read_text(errors="replace")):
                try:
                    Asker(found.group(1)).ask()
                    break
                except OSError:
                    pass
            time.sleep(0.1)
        yield found.group(1)
    finally:
        process.terminate()
        process.wait()


def publish_another(url: str, *, repeat: int) -> tuple[int, int]:
    """Publish the serving version's content under a new number; return the old number and the new one."""
    engine = create_engine(url, pool_size=1)
    with engine.begin() as conn:
        now = active(conn)
        assert now is not None, "a server built the first version"
        old = load(conn, now.version)
        new = replace(old, training={"repeat": f"{repeat} {time.time()}"}, number=0, fingerprint="")
        made = publish(conn, new, actor="benchmark", reason="to be rolled back", parent=old.number)
    engine.dispose()
    return old.number, made.number


def measure(addresses: Sequence[str], *, old: int, new: int) -> dict[str, float]:
    """One rollback under load: milliseconds of the call and until the last replica, and how many went forward again."""
    askers = [Asker(address) for address in addresses]
    threads = [threading.Thread(target=asker.run) for asker in askers]
    for thread in threads:
        thread.start()
    try:
        _wait(lambda: all(asker.seen and asker.seen[-1][1] == new for asker in askers))
        began = time.monotonic()
        _call(addresses[0], "/v1/router/rollback", {"reason": "benchmark", "actor": "benchmark"})
        answered = time.monotonic()
        _wait(lambda: all(asker.seen[-1][1] == old for asker in askers))
        time.sleep(0.3)
    finally:
        for asker in askers:
            asker.stop.set()
        for thread in threads:
            thread.join()
    firsts = [next(at for at, version in asker.seen if at > began and version == old) for asker in askers]
    after = [version for asker, first in zip(askers, firsts, strict=True) for at, version in asker.seen if at > first]
    return {
        "call_ms": 1_000 * (answered - began),
        "first_replica_ms": 1_000 * (min(firsts) - began),
        "last_replica_ms": 1_000 * (max(firsts) - began),
        "forward_again": float(sum(version != old for version in after)),
    }


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "a replica did not follow"
        time.sleep(0.005)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollback", description=__doc__.split("\n")[0])
    parser.add_argument("--replicas", type=int, default=2, help="server processes on one database")
    parser.add_argument("--repeats", type=int, default=7, help="rollbacks")
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="trimtab-rollback-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)
        database = embedded_postgres.start(Path(folder))
        stack.callback(embedded_postgres.remove, Path(folder))
        stack.callback(database.stop)
        subprocess.run(
            [*_TRIMTAB, "migrate"],
            env={**os.environ, "TRIMTAB_DATABASE_URL": database.url},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        homes = [Path(folder) / f"replica-{i}" for i in range(args.replicas)]
        for home in homes:
            home.mkdir()
        addresses = [stack.enter_context(serving(home, replica=i, url=database.url)) for i, home in enumerate(homes)]
        for repeat in range(args.repeats):
            old, new = publish_another(database.url, repeat=repeat)
            rows.append(Row(name="trimtab", repeat=repeat, metrics=measure(addresses, old=old, new=new)))
    report = BenchmarkReport(benchmark="rollback", args=vars(args), rows=rows)
    report.print_table()
    median = statistics.median(row.metrics["last_replica_ms"] for row in rows)
    print(f"From the call to the last replica's first decision by the old version, median: {median:.0f} ms")
    if args.json:
        report.write_json(args.json)


if __name__ == "__main__":
    main()
