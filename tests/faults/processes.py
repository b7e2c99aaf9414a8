"""The processes of an embedded Postgres."""

import contextlib
import os
import signal
from pathlib import Path

from telemetry import embedded_postgres
from telemetry.embedded_postgres import EmbeddedPostgres
from tests.api.cli.processes import wait_for


def processes_of(server: EmbeddedPostgres) -> list[int]:
    """Its pid and those of its children; it may be starting again just now."""
    pid = wait_for(lambda: embedded_postgres.status(server.home)[0])
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def kill(pids: list[int]) -> None:
    """Kill them all, and wait until none runs any more."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(_runs(pid) for pid in pids))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
