"""One learner at a time: a lease in the database, with a fencing token that publishing checks."""

from datetime import timedelta

from sqlalchemy import Connection, func, update
from sqlalchemy.dialects.postgresql import insert

from telemetry.tables import learner_lease

NAME = "night"
DURATION = timedelta(seconds=60)


class LeaseHeld(Exception):
    """Another learner is at work; wait until it is done, or a minute after it was killed."""


def acquire(conn: Connection, *, holder: str) -> int:
    """Take the lease and return its fencing token, which grows with every lease; the caller commits.

    Raises:
        LeaseHeld: it is held and has not run out. The database's clock counts.
    """
    free = insert(learner_lease).values(name=NAME, fencing_token=0).on_conflict_do_nothing()
    conn.execute(free)
    statement = (
        update(learner_lease)
        .where(learner_lease.c.name == NAME)
        .where(func.coalesce(learner_lease.c.expires_at, func.clock_timestamp()) <= func.clock_timestamp())
        .values(
            fencing_token=learner_lease.c.fencing_token + 1,
            holder=holder,
            expires_at=func.clock_timestamp() + DURATION,
        )
        .returning(learner_lease.c.fencing_token)
    )
    token = conn.execute(statement).scalar_one_or_none()
    if token is None:
        raise LeaseHeld(LeaseHeld.__doc__)
    return int(token)


def renew(conn: Connection, token: int) -> bool:
    """Hold the lease for another minute; False when somebody else has taken it."""
    statement = update(learner_lease).where(learner_lease.c.name == NAME, learner_lease.c.fencing_token == token)
    return conn.execute(statement.values(expires_at=func.clock_timestamp() + DURATION)).rowcount == 1


def release(conn: Connection, token: int) -> None:
    """Give the lease back; does nothing when somebody else has taken it."""
    statement = update(learner_lease).where(learner_lease.c.name == NAME, learner_lease.c.fencing_token == token)
    conn.execute(statement.values(expires_at=None, holder=None))
