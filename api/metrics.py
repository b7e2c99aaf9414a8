"""Prometheus metrics of a server. Labels carry routes and outcomes, never anything that users wrote.

Several processes of one server write theirs into files of one folder, and whichever is asked answers for all of them:
else the figures would jump from process to process. prometheus_client counts in files where ``FOLDER_VARIABLE`` is set
before it is imported, so the parent sets it for its workers.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_FRESH_SECONDS = 1.0
# Over the processes: the sum since the start (of dead ones too), of the living, the largest, or one row for each.
Together = Literal["sum", "livesum", "livemax", "liveall"]


class Metrics:
    """The metrics and their registry: one a process, so that tests may have several.

    Args:
        folder: where all processes of this server count; None where it is alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.decisions = Counter("trimtab_decisions", "Decided segments", ["route", "cause"], registry=own)
        self.splits = Counter("trimtab_splits", "Queries decided, split or not", ["split"], registry=own)
        self.decide_seconds = Histogram("trimtab_decide_seconds", "Time to decide", buckets=_SECONDS, registry=own)
        self.requests = Counter("trimtab_requests", "Requests", ["path", "status"], registry=own)

        self._folder = folder
        self._counts: dict[tuple[Counter, tuple[str, ...]], Counter] = {}
        self._watched: list[tuple[Gauge, Callable[[], float]]] = []
        self._first: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def count(self, counter: Counter, *labels: str, number: int = 1) -> None:
        """Count one or more under these labels; finding them costs a counter more than counting, so they are kept."""
        found = self._counts.get((counter, labels))
        if found is None:
            found = self._counts[counter, labels] = counter.labels(*labels)
        found.inc(number)

    def watch(self, name: str, text: str, value: Callable[[], float], *, together: Together) -> None:
        """Add a gauge that is read when it is asked for, and each second where other processes are asked as well."""
        gauge = Gauge(name, text, registry=self.registry, multiprocess_mode=together)
        self._watched.append((gauge, value))

    def count_first(self, count: Callable[[], None]) -> None:
        """Call this before anything is read: it counts what was done elsewhere."""
        self._first.append(count)

    async def start(self) -> None:
        """Keep what other processes see of this one fresh."""
        if self._folder is not None:
            self._task = asyncio.create_task(self._follow(), name="metrics")

    async def stop(self) -> None:
        """Tell the last figures."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._refresh()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text form, those of all processes of this server."""
        self._refresh()
        if self._folder is None:
            return generate_latest(self.registry)
        for pid in {file.stem.rpartition("_")[2] for file in self._folder.glob("gauge_live*.db")}:
            if not Path(f"/proc/{pid}").exists():
                mark_process_dead(int(pid), path=str(self._folder))  # type: ignore[no-untyped-call]
        together = CollectorRegistry()
        MultiProcessCollector(together, path=str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def _refresh(self) -> None:
        for count in self._first:
            count()
        for gauge, value in self._watched:
            gauge.set(value())

    async def _follow(self) -> None:
        while True:
            self._refresh()
            await asyncio.sleep(_FRESH_SECONDS)


def metrics_folder(home: Path, *, server: int) -> Path:
    """Return where the processes of the server with this pid count together."""
    return home / "metrics" / str(server)


@contextlib.contextmanager
def counting_together(home: Path) -> Iterator[Path]:
    """Make the folder for the processes of this server, and remove it at the end; what killed ones left goes too."""
    folder = metrics_folder(home, server=os.getpid())
    for left in folder.parent.glob("[0-9]*"):
        if left == folder or not Path(f"/proc/{left.name}").exists():
            shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
