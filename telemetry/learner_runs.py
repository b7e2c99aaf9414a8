"""Nights as they are read: runs and the failures they mined."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, RowMapping, func, select

from telemetry.tables import learner_lease, learner_run, mined_failure


def who_learns(conn: Connection) -> str | None:
    """Return who holds the learner's lease now, None when nobody is at work."""
    held = learner_lease.c.expires_at > func.clock_timestamp()
    found: str | None = conn.execute(select(learner_lease.c.holder).where(held)).scalar()
    return found


def list_runs(conn: Connection, *, limit: int = 50, after: UUID | None = None) -> Sequence[RowMapping]:
    """Return runs without their reports, newest first, from before the run ``after``."""
    columns = [column for column in learner_run.columns if column.name != "report"]
    statement = select(*columns).order_by(learner_run.c.started_at.desc(), learner_run.c.run_id.desc()).limit(limit)
    if after is not None:
        earlier = select(learner_run.c.started_at).where(learner_run.c.run_id == after).scalar_subquery()
        statement = statement.where(learner_run.c.started_at < earlier)
    return conn.execute(statement).mappings().all()


def read_run(conn: Connection, run_id: UUID) -> RowMapping | None:
    """Return one run with its report, None when it is not there."""
    return conn.execute(select(learner_run).where(learner_run.c.run_id == run_id)).mappings().first()


def list_failures(
    conn: Connection,
    *,
    run_id: UUID | None = None,
    kind: str | None = None,
    after: int | None = None,
    limit: int = 50,
) -> Sequence[RowMapping]:
    """Return mined failures, newest first, from before the number ``after``, optionally of one kind.

    Of one run; where none is named, of that of ``after``, and without one of the newest that mined any.
    """
    if run_id is None:
        newest = select(mined_failure.c.run_id).order_by(mined_failure.c.failure_id.desc()).limit(1)
        if after is not None:
            newest = newest.where(mined_failure.c.failure_id == after)
        run_id = conn.execute(newest).scalar_one_or_none()
    statement = select(mined_failure).where(mined_failure.c.run_id == run_id)
    if kind is not None:
        statement = statement.where(mined_failure.c.kind == kind)
    if after is not None:
        statement = statement.where(mined_failure.c.failure_id < after)
    return conn.execute(statement.order_by(mined_failure.c.failure_id.desc()).limit(limit)).mappings().all()
