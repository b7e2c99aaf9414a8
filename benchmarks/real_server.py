"""The real server under a benchmark: ``trimtab serve`` with its embedded Postgres on loopback, and what both spend."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telemetry import embedded_postgres

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_READY_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class RealServer:
    """A running server: its port, its process, its database."""

    port: int
    pid: int
    home: Path
    database_url: str

    def cpu_seconds(self) -> float:
        """Processor time that the API's processes and Postgres have spent since they started."""
        return cpu_seconds({*tree(self.pid), *tree(self._postmaster())})

    def split_cpu_seconds(self) -> tuple[float, float]:
        """The same, API and Postgres each."""
        postgres = set(tree(self._postmaster()))
        return cpu_seconds(set(tree(self.pid)) - postgres), cpu_seconds(postgres)

    def memory_mib(self) -> float:
        """Memory of the API's processes that is theirs alone, in MiB."""
        return sum(private_mib(pid) for pid in set(tree(self.pid)) - set(tree(self._postmaster())))

    def _postmaster(self) -> int:
        pid, _ = embedded_postgres.status(self.home)
        if pid is None:
            raise RuntimeError("The embedded Postgres is not running.")
        return pid


@contextmanager
def served(
    *, folder: Path, settings: Mapping[str, str] | None = None, arguments: tuple[str, ...] = ()
) -> Iterator[RealServer]:
    """Start the server in a folder of its own, and stop it at the end."""
    home = folder / "home"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRIMTAB_")}
    environment |= {"TRIMTAB_HOME": str(home), "TRIMTAB_LOG_LEVEL": "warning", **(settings or {})}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli.main", "serve", "--port", "0", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        try:
            port = _announced_port(process, folder / "server.log")
            url = embedded_postgres.start(home)
            try:
                yield RealServer(port=port, pid=process.pid, home=home, database_url=url.url)
            finally:
                url.stop()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _announced_port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port that the server says it serves on, once it is ready."""
    assert process.stdout is not None
    for line in process.stdout:
        if b"http://127.0.0.1:" in line:
            port = int(line.split(b"http://127.0.0.1:")[1].split()[0].strip(b"/"))
            _wait_until_ready(port)
            return port
    raise RuntimeError(f"The server did not start: {log.read_text()[-2000:]}")


def _wait_until_ready(port: int) -> None:
    give_up = time.monotonic() + _READY_SECONDS
    while time.monotonic() < give_up:
        try:
            if fetch(port, "/readyz")["status"] == "ready":
                return
        except (OSError, urllib.error.HTTPError):
            pass
        time.sleep(0.1)
    raise RuntimeError("The server did not become ready.")


def fetch(port: int, path: str, body: object = None) -> Any:
    """Answer of one call, parsed."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, headers=headers)
    with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
        return json.loads(answer.read())


def play(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Play a plan in a process of its own."""
    defaults = {"host": "127.0.0.1", "first": 0, "rate": None, "most": 10**12, "connections": 64}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load_client"],
        input=json.dumps({**defaults, **plan}).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, new = [root], [root]
    while new:
        new = [pid for pid, parent in parents.items() if parent in new]
        found += new
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of processes, and of their children that have ended."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(fields[i]) for i in (11, 12, 13, 14))
    return ticks / _TICKS


def private_mib(pid: int) -> float:
    """Memory of one process that nobody shares, in MiB; 0 for one that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


@contextmanager
def own_folder(name: str) -> Iterator[Path]:
    """A folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix=f"trimtab-{name}-") as folder:
        yield Path(folder)
