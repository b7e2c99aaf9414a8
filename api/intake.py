"""Group commit: events wait in a bounded queue, flushers store many in one transaction, answers follow the COMMIT."""

import asyncio
import contextlib
import math
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from api.errors import Overloaded
from telemetry.database import DatabaseUnavailable
from telemetry.feedback import store_feedback
from telemetry.inferences import deadlocked, refuses_data, store_inferences
from telemetry.records import Feedback, Inference, StoreResult

FLUSHERS = 2
FLUSH_ROWS = 500
GATHER_SECONDS = 0.003
# What nobody waits for is stored with what somebody does, or with its like: a commit for each costs ten times as much.
LATER_SECONDS, LATER_ROWS = 0.1, 100
ANSWER_SECONDS = 4.0
STOP_SECONDS = 8.0
STUCK_SECONDS = 3.0
_Event = Inference | Feedback


@dataclass(slots=True)
class _Entry:
    """One request's events and who waits for them; ``answer`` is None when nobody does."""

    events: Sequence[_Event]
    size: int
    answer: "asyncio.Future[list[StoreResult]] | None"
    results: list[StoreResult] = field(default_factory=list)
    came: float = field(default_factory=time.monotonic)


class Intake:
    """The bounded queue and its flushers.

    Args:
        engine: where events are stored; each flusher holds one connection while it stores.
        most_items: events that may wait.
        most_bytes: bytes that may wait.
        flushers: threads that store.
    """

    def __init__(self, engine: Engine, *, most_items: int, most_bytes: int, flushers: int = FLUSHERS) -> None:
        self._engine = engine
        self._most_items, self._most_bytes = most_items, most_bytes
        self._waiting: deque[_Entry] = deque()
        self._items = self._bytes = self._last = self._reading = self._awaited = 0
        self.storing = self.storing_bytes = 0
        self._one = asyncio.Lock()
        self._changed = threading.Condition()
        self._closing = self._crowded = False
        self._turn = threading.Lock()
        self._began: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._flush_forever, name=f"intake-{i}", daemon=True) for i in range(flushers)
        ]

    def start(self) -> None:
        """Start the flushers."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Store what waits, then end the flushers; a hung database is not waited for, nothing of it is acknowledged."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def waiting(self) -> int:
        """Events in the queue now."""
        return self._items

    @property
    def stuck(self) -> bool:
        """Whether a flusher has been at one transaction for so long that it must hang, whatever the database says."""
        return time.monotonic() - min(list(self._began.values()), default=math.inf) > STUCK_SECONDS

    @property
    def room(self) -> float:
        """How many more requests may come, each with as much as the last one brought."""
        coming = self._items + self._last * self._reading
        return (self._most_items - coming) / max(1, self._last) if coming > 0 else math.inf

    def shed(self, requests: int, *, batch: bool) -> None:
        """Count what requests that were refused unread brought: of a batch as much as the last request did."""
        self.counts["shed"] += requests * self._last if batch else requests

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the turn to read a large body that has come whole: one at a time, others' answers in between.

        Raises:
            Overloaded: those before it fill the queue.
        """
        if self.room < 1:
            self.shed(1, batch=True)
            raise Overloaded(Overloaded.__doc__)
        self._reading += 1
        try:
            async with self._one:
                await asyncio.sleep(0)
                yield
        finally:
            self._reading -= 1

    async def store(self, events: Sequence[_Event], *, size: int) -> list[StoreResult]:
        """Store ``events`` and return once they are committed.

        Raises:
            Overloaded: the queue is full; nothing was taken.
            DatabaseUnavailable: it was not stored in time. Sending it again is safe.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[StoreResult]] = loop.create_future()
        if not self._put(_Entry(events, size, answer)):
            raise Overloaded(Overloaded.__doc__)
        give_up = loop.call_later(ANSWER_SECONDS, _settle, answer, DatabaseUnavailable(DatabaseUnavailable.__doc__))
        self.storing, self.storing_bytes = self.storing + 1, self.storing_bytes + size
        try:
            return await answer
        finally:
            self.storing, self.storing_bytes = self.storing - 1, self.storing_bytes - size
            give_up.cancel()

    def store_later(self, event: _Event, *, size: int) -> bool:
        """Store ``event`` in a moment, without telling anybody; False (and counted) when the queue is full."""
        return self._put(_Entry([event], size, None))

    def _put(self, entry: _Entry) -> bool:
        n = len(entry.events)
        with self._changed:
            self._last = n
            full = self._items + n > self._most_items or self._bytes + entry.size > self._most_bytes
            if self._closing or (full and self._items):
                self.counts["shed"] += n
                return False
            self._waiting.append(entry)
            self._items += n
            self._bytes += entry.size
            self.counts["received"] += n
            self._awaited += entry.answer is not None
            if entry.answer is not None or self._items == n or self._many:  # else the clock runs already
                self._changed.notify()
        return True

    @property
    def _many(self) -> bool:
        """Whether what waits is worth a commit by itself, or half of what may wait."""
        most = min(2 * LATER_ROWS, self._most_items)
        return 2 * self._items >= most or 2 * self._bytes >= self._most_bytes

    def _patience(self) -> float | None:
        """Seconds until what waits should be stored; None while nothing waits."""
        if not self._waiting:
            return None
        if self._awaited or self._many:
            return 0.0
        return max(0.0, self._waiting[0].came + LATER_SECONDS - time.monotonic())

    def _take(self) -> list[_Entry]:
        """Wait for entries; return those that fit one flush, or none at the end.

        While several requests come at a time a moment is left for more to come, for a commit costs the same for all.
        """
        with self._turn:
            with self._changed:
                while (patience := self._patience()) != 0 and not self._closing:
                    self._changed.wait(patience)
                gathering = self._crowded and self._items < FLUSH_ROWS and not self._closing
            if gathering:
                time.sleep(GATHER_SECONDS)
            with self._changed:
                taken = self._take_one_flush()
            self._crowded = sum(entry.answer is not None for entry in taken) > 1
            return taken

    def _take_one_flush(self) -> list[_Entry]:
        taken: list[_Entry] = []
        rows = 0
        while self._waiting and (not taken or rows + len(self._waiting[0].events) <= FLUSH_ROWS):
            entry = self._waiting.popleft()
            rows += len(entry.events)
            taken.append(entry)
            self._bytes -= entry.size
            self._awaited -= entry.answer is not None
        self._items -= rows
        return taken

    def _flush_forever(self) -> None:
        name = threading.current_thread().name
        while entries := self._take():
            self._began[name] = time.monotonic()
            try:
                self._store(entries)
            except Exception as error:  # noqa: BLE001  # the request edge: no event may cost the flusher its life
                structlog.get_logger().warning("intake_failed", error=type(error).__name__, requests=len(entries))
                self.counts["failed"] += sum(len(entry.events) for entry in entries)
                _answer(entries, DatabaseUnavailable(DatabaseUnavailable.__doc__))
            del self._began[name]

    def _store(self, entries: list[_Entry]) -> None:
        """Store and commit; what a lost connection, a deadlock or a bad value broke is tried once more, each apart.

        That is safe since every event is idempotent.
        """
        try:
            results = self._commit(entries, apart=False)
        except DBAPIError as error:
            if not (error.connection_invalidated or deadlocked(error) or refuses_data(error)):
                raise
            results = self._commit(entries, apart=True)
        for result in results:
            self.counts[result.status] += 1
        done = iter(results)
        for entry in entries:
            entry.results = [next(done) for _ in entry.events]
        _answer(entries, None)

    def _commit(self, entries: list[_Entry], *, apart: bool) -> list[StoreResult]:
        events = [event for entry in entries for event in entry.events]
        inferences = [event for event in events if isinstance(event, Inference)]
        judgements = [event for event in events if isinstance(event, Feedback)]
        with self._engine.begin() as connection:
            stored = iter(store_inferences(connection, inferences, apart=apart) if inferences else [])
            judged = iter(store_feedback(connection, judgements) if judgements else [])
        return [next(stored) if isinstance(event, Inference) else next(judged) for event in events]


def _answer(entries: list[_Entry], error: Exception | None) -> None:
    """Tell who waits, with one call into their event loop for all."""
    waiting = [(entry.answer, error or entry.results) for entry in entries if entry.answer is not None]
    if not waiting:
        return

    def settle_all() -> None:
        for answer, result in waiting:
            _settle(answer, result)

    try:
        waiting[0][0].get_loop().call_soon_threadsafe(settle_all)
    except RuntimeError:  # the loop has ended: nobody waits any more
        return


def _settle(answer: "asyncio.Future[list[StoreResult]]", result: list[StoreResult] | Exception) -> None:
    if answer.done():  # the client was told that it took too long, or has left
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
