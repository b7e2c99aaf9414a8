"""``trimtab`` as real processes in a home of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import httpx

Found = TypeVar("Found")
TRIMTAB = (sys.executable, "-m", "api.cli.main")
START_SECONDS = 120.0


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a command: this home, and nothing of TRIMTAB_ from outside."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
    return {**clean, "TRIMTAB_HOME": str(home), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **more}


def trimtab(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*TRIMTAB, *arguments], env=environment(home, **more), capture_output=True, text=True, check=False, timeout=280
    )


def wait_for(condition: Callable[[], Found], *, seconds: float = 120.0, every: float = 0.02) -> Found:
    """Return what ``condition`` finds, as soon as it finds something."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(every)
    return found


@dataclass(kw_only=True)
class ServeProcess:
    """A running ``trimtab serve``."""

    process: subprocess.Popen[str]
    output: Path

    @property
    def address(self) -> str:
        found = re.search(r"serves on (http://\S+)", self.printed())
        return found.group(1) if found else ""

    def printed(self) -> str:
        return self.output.read_text()

    def end(self, number: int) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(180)


@contextlib.contextmanager
def signals_as_at_a_terminal() -> Iterator[None]:
    """What is started here hears Ctrl-C and a hang-up, though who runs the tests may ignore them (nohup, a job)."""
    kept = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def serving(
    home: Path, *arguments: str, port: int = 0, path: str = "/readyz", by: Sequence[str] = (), **more: str
) -> Iterator[ServeProcess]:
    """Run ``trimtab serve``, by ``nohup`` say, until it answers 200 at ``path``; what runs at the end is stopped."""
    output = home / f"serve-{uuid4().hex[:8]}.log"
    command = [*by, *TRIMTAB, "serve", "--port", str(port), *arguments]
    with output.open("w") as file, signals_as_at_a_terminal():
        process = subprocess.Popen(
            command, env=environment(home, **more), stdout=file, stderr=subprocess.STDOUT, text=True
        )
    server = ServeProcess(process=process, output=output)
    try:
        wait_for(lambda: process.poll() is not None or answers(server.address, path), seconds=START_SECONDS)
        assert process.poll() is None, server.printed()
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(180)


def answers(address: str, path: str = "/readyz") -> bool:
    """Tell whether a server decides at this address, or answers 200 at another path."""
    try:
        return bool(address) and httpx.get(f"{address}{path}", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
