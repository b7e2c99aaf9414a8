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


def claim_notifications(conn: Connection, *, limit: int = 20) -> Sequence[RowMapping]:
    """Return what is due for delivery, oldest first, and put its next attempt off; the caller commits, then delivers.

    The waits double: 2 s, 4 s, ... about four minutes at last. Whoever is killed while delivering leaves the row to
    the next attempt, so each is delivered at least once unless all attempts fail.
    """
    n = notification.c
    due = select(n.notification_id).where(n.delivered_at.is_(None), n.attempts < MOST_ATTEMPTS)
    due = due.where(n.next_at <= func.clock_timestamp()).order_by(n.notification_id).limit(limit)
    wait = _FIRST_WAIT_SECONDS * func.pow(2, n.attempts)
    values = {
        "attempts": n.attempts + 1,
        "next_at": func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, wait),
    }
    claim = update(notification).where(n.notification_id.in_(due.with_for_update(skip_locked=True)))
    rows = conn.execute(claim.values(values).returning(notification)).mappings().all()
    return sorted(rows, key=lambda row: row["notification_id"])


def settle_notification(conn: Connection, notification_id: int, *, problem: str | None) -> None:
    """Write down how a delivery went: None is delivered."""
    delivered = func.clock_timestamp() if problem is None else None
    where = notification.c.notification_id == notification_id
    conn.execute(update(notification).where(where).values(problem=problem, delivered_at=delivered))


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
