"""The row of one night: started, heartbeat, finished; what an interrupted night left is marked as abandoned."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from learner import lease
from learner.mining import MinedFailure
from router.registry import LeaseLost
from telemetry.notifications import notify
from telemetry.tables import feedback, learner_consumption, learner_run, mined_failure

_BEAT_SECONDS = 10.0


def start_run(conn: Connection, run_id: UUID, *, token: int) -> None:
    """Write down that a night begins. Whoever holds the lease is alone: what still runs was interrupted."""
    unfinished = update(learner_run).where(learner_run.c.status == "running")
    conn.execute(unfinished.values(status="abandoned", finished_at=func.clock_timestamp(), error="interrupted"))
    conn.execute(
        insert(learner_run).values(run_id=run_id, fencing_token=token, status="running", step="read", error=None)
    )


def note_refused(conn: Connection, run_id: UUID, *, error: Exception) -> None:
    """Write down a night that could not begin, for whoever was told to look at it under this id."""
    row = {"run_id": run_id, "fencing_token": 0, "status": "failed", "error": f"{type(error).__name__}: {error}"}
    conn.execute(insert(learner_run).values(**row, finished_at=func.clock_timestamp()))


def set_step(conn: Connection, run_id: UUID, step: str) -> None:
    """Write down which step is at work."""
    statement = update(learner_run).where(learner_run.c.run_id == run_id)
    conn.execute(statement.values(step=step, heartbeat_at=func.clock_timestamp()))


def finish_run(conn: Connection, run_id: UUID, **values: Any) -> None:
    """Write down how the night ended; one that was given up as abandoned meanwhile stays so."""
    statement = update(learner_run).where(learner_run.c.run_id == run_id, learner_run.c.status == "running")
    if conn.execute(statement.values(finished_at=func.clock_timestamp(), step=None, **values)).rowcount:
        told = {name: values.get(name) for name in ("status", "verdict", "candidate", "error")}
        sentence = (values.get("report") or {}).get("sentence")
        notify(conn, {"event": "night", "run_id": str(run_id), **told, "sentence": sentence})


def last_watermark(conn: Connection) -> datetime | None:
    """Return up to when the newest night that evaluated anything had read."""
    done = learner_run.c.verdict.in_(("published", "held", "canary", "shadow"))
    newest = select(learner_run.c.watermark).where(done).order_by(learner_run.c.started_at.desc()).limit(1)
    return conn.execute(newest).scalar_one_or_none()


def anything_new(conn: Connection, *, since: datetime | None, until: datetime) -> bool:
    """Tell whether a judgement, a withdrawal or a question came in since the last night."""
    from telemetry.tables import inference

    for table in (feedback, inference):
        statement = select(table.c.received_at).where(table.c.received_at <= until).limit(1)
        if since is not None:
            statement = statement.where(table.c.received_at > since)
        if conn.execute(statement).first() is not None:
            return True
    return False


def store_failures(conn: Connection, run_id: UUID, failures: Sequence[MinedFailure]) -> None:
    """Store the failures of a night."""
    rows = [{**asdict(failure), "run_id": run_id, "inference_id": UUID(failure.inference_id)} for failure in failures]
    if rows:
        conn.execute(insert(mined_failure), rows)


def store_consumption(conn: Connection, votes: Sequence[tuple[str, int]], *, version: int) -> None:
    """Write down which feedback revisions trained ``version``."""
    conn.execute(delete(learner_consumption).where(learner_consumption.c.version == version))
    rows = [{"feedback_id": UUID(id_), "revision": revision, "version": version} for id_, revision in votes]
    if rows:
        conn.execute(insert(learner_consumption), rows)


def failure_counts(failures: Sequence[MinedFailure]) -> Mapping[str, int]:
    """Return how many failures of each kind."""
    counts: dict[str, int] = {}
    for failure in failures:
        counts[failure.kind] = counts.get(failure.kind, 0) + 1
    return counts


class NightTooLong(Exception):
    """The night took longer than TRIMTAB_LEARNER__MOST_HOURS allows and was given up; nothing was published."""


class Heartbeat:
    """Renews the lease beside the night's work for so many hours. ``lost`` is set when somebody else has taken it.

    A night that is stuck holds the lease no longer than that: the next one begins, and the stuck one cannot publish.
    """

    def __init__(self, engine: Engine, token: int, *, hours: float) -> None:
        self._engine, self._token = engine, token
        self._end = time.monotonic() + 3600 * hours
        self._ended = threading.Event()
        self.lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="night-heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def refuse_when_over(self) -> None:
        """Let the night do no more once its lease or its time is gone.

        Raises:
            LeaseLost: another learner took over.
            NightTooLong: its hours are over.
        """
        if self.lost.is_set():
            raise LeaseLost(token=self._token, found=None)
        if time.monotonic() > self._end:
            raise NightTooLong(NightTooLong.__doc__)

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS) and time.monotonic() < self._end:
            try:
                with self._engine.begin() as conn:
                    if not lease.renew(conn, self._token):
                        self.lost.set()
                        return
            except SQLAlchemyError:  # the database is away; the lease lasts for several beats
                continue
