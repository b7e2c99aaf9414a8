"""What the operator is told: written in the transaction that it tells of, delivered later by whoever serves."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, text, update

from telemetry.tables import notification

MOST_ATTEMPTS = 8
_KEPT = text("interval '7 days'")
_FIRST_WAIT_SECONDS = 2.0


def notify(conn: Connection, body: Mapping[str, Any]) -> None:
    """Write down an event (``body`` is JSON, with its name under ``event``); the caller commits."""
    conn.execute(insert(notification).values(body=dict(body)))


def due_notifications(conn: Connection, *, limit: int = 20) -> Sequence[RowMapping]:
    """Return what is due for delivery, oldest first, locked until commit; rows that another process holds are left."""
    n = notification.c
    query = select(notification).where(n.delivered_at.is_(None), n.attempts < MOST_ATTEMPTS)
    query = query.where(n.next_at <= func.clock_timestamp()).order_by(n.notification_id).limit(limit)
    return conn.execute(query.with_for_update(skip_locked=True)).mappings().all()


def settle_notification(conn: Connection, notification_id: int, *, attempts: int, problem: str | None) -> None:
    """Write down how a delivery went; after a failure the waits double: 2 s, 4 s, ... about four minutes at last."""
    values: dict[str, Any] = {"attempts": attempts, "problem": problem}
    if problem is None:
        values["delivered_at"] = func.clock_timestamp()
    else:
        wait = _FIRST_WAIT_SECONDS * 2 ** (attempts - 1)
        values["next_at"] = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, wait)
    conn.execute(update(notification).where(notification.c.notification_id == notification_id).values(values))


def forget_notifications(conn: Connection) -> int:
    """Delete what is older than a week, delivered or not; return how many rows."""
    old = notification.c.created_at < func.clock_timestamp() - _KEPT
    return conn.execute(delete(notification).where(old)).rowcount


def list_notifications(conn: Connection, *, limit: int = 50, after: int | None = None) -> Sequence[RowMapping]:
    """Return notifications with how their delivery went, newest first, from before the id ``after``."""
    query = select(notification).order_by(notification.c.notification_id.desc()).limit(limit)
    if after is not None:
        query = query.where(notification.c.notification_id < after)
    return conn.execute(query).mappings().all()
