"""Migrations: alembic under an advisory lock, so that any number of processes may call it at once."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

import migrations
from telemetry.database import create_engine

_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
ADVISORY_LOCK = 0x7472696D  # "trim"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__path__[0])))
    return config


@contextlib.contextmanager
def _exclusive(url: str) -> Iterator[Connection]:
    engine: Engine = create_engine(url, pool_size=1, statement_timeout_ms=0, idle_timeout_ms=0)
    try:
        with engine.connect() as connection:
            connection.execute(text("select pg_advisory_lock(:lock)"), {"lock": ADVISORY_LOCK})
            connection.commit()
            yield connection
            connection.rollback()
            connection.execute(text("select pg_advisory_unlock(:lock)"), {"lock": ADVISORY_LOCK})
            connection.commit()
    finally:
        engine.dispose()


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to ``revision``; waits while another process migrates, and does nothing when it is there.

    A lock that is not had within the migration's ``lock_timeout`` is let go, so that what queues behind it goes on, and
    tried again after a while. A database that newer code has migrated is left as it is: such changes only add until no
    old code runs.
    """
    for wait in (*_WAITS, None):
        try:
            _upgrade(url, revision)
            break
        except OperationalError as error:
            if wait is None or getattr(error.orig, "sqlstate", "") != "55P03":  # lock_not_available
                raise
            time.sleep(wait)


def _upgrade(url: str, revision: str) -> None:
    with _exclusive(url) as connection:
        if _is_newer(connection):
            return
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()


def downgrade(url: str, revision: str) -> None:
    """Take the database back to ``revision`` (``base``: everything away)."""
    with _exclusive(url) as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
        connection.commit()


def current(conn: Connection) -> str | None:
    """Return the revision of the database, None when it was never migrated."""
    return MigrationContext.configure(conn).get_current_revision()


def is_current(conn: Connection) -> bool:
    """Tell whether the database is at the newest revision this code knows, or at one that newer code brought it to."""
    return current(conn) == ScriptDirectory.from_config(_config()).get_current_head() or _is_newer(conn)


def _is_newer(conn: Connection) -> bool:
    """Tell whether the database is at a revision that this code does not know."""
    found = current(conn)
    if found is None:
        return False
    try:
        ScriptDirectory.from_config(_config()).get_revision(found)
    except CommandError:
        return True
    return False
