"""What asks the database beside the event loop: so many at a time, and who is too much is told so in time."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine, text

from api.errors import DatabaseBusy
from telemetry.database import DatabaseUnavailable, create_engine

Result = TypeVar("Result")
ANSWER_SECONDS = 4.0
TURN_SECONDS = 0.9
PULSE_SECONDS = 2.5
_PULSE_TIMEOUT_MS = 2_000
_MOST_WAITING = 100


class Lane:
    """A few threads and a short queue before them. What one lane is asked holds up neither another one nor the intake.

    A query that was given up may hang in its thread until the engine's own time is up, so it is counted for as long.

    Args:
        engine: has a connection for each thread.
        name: of the threads.
        threads: queries at a time.
    """

    def __init__(self, engine: Engine, *, name: str, threads: int) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._places = threading.Semaphore(threads + _MOST_WAITING)

    async def ask(self, query: Callable[[Connection], Result]) -> Result:
        """Run ``query`` on a connection of its own in a thread, and commit.

        Raises:
            DatabaseBusy: its turn did not come in time. It was not begun.
            DatabaseUnavailable: it took too long: a hung server says nothing. It is not committed then.
        """
        given_up = threading.Event()

        def run() -> Result:
            if given_up.is_set():  # its thread could not be started, and another one found it in the queue
                raise DatabaseBusy(DatabaseBusy.__doc__)
            with self._engine.begin() as connection:
                result = query(connection)
                if given_up.is_set():
                    raise DatabaseUnavailable(DatabaseUnavailable.__doc__)
                return result

        try:
            job = self._begin(run)
            answer = asyncio.wrap_future(job)
            async with asyncio.timeout(ANSWER_SECONDS):
                await asyncio.wait((answer,), timeout=TURN_SECONDS)
                if job.cancel():
                    raise DatabaseBusy(DatabaseBusy.__doc__)
                return await answer
        except TimeoutError:
            raise DatabaseUnavailable(DatabaseUnavailable.__doc__) from None
        finally:
            given_up.set()

    def _begin(self, run: Callable[[], Result]) -> Future[Result]:
        if not self._places.acquire(blocking=False):
            raise DatabaseBusy(DatabaseBusy.__doc__)
        try:
            job = self._threads.submit(run)
        except RuntimeError:  # no more threads can be had, or this process is about to end
            self._places.release()
            raise DatabaseBusy(DatabaseBusy.__doc__) from None
        job.add_done_callback(lambda _: self._places.release())
        return job

    def stop(self) -> None:
        """Begin nothing more; what hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Pulse:
    """Whether the database answers, asked in a thread and on a connection of its own: readers never make it look away.

    Args:
        url: of the database.
    """

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, pool_size=1, statement_timeout_ms=_PULSE_TIMEOUT_MS)
        self._lane = Lane(self._engine, name="pulse", threads=1)
        self._asking: asyncio.Task[bool] | None = None

    async def beats(self) -> bool:
        """Ask; who asks while that is under way hears the same answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="pulse")
        return await asyncio.shield(self._asking)

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(PULSE_SECONDS):
                await self._lane.ask(lambda connection: connection.execute(text("select 1")).scalar_one())
        except Exception:  # noqa: BLE001  # the request edge: whatever is wrong, the answer is no
            return False
        return True

    def stop(self) -> None:
        """Ask no more."""
        self._lane.stop()
        self._engine.dispose()
