"""Engines from one URL over psycopg 3; they give up in time and say in words what is wrong."""

import re
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg.abc import RV, PQGen
from sqlalchemy import Connection, Engine, event, func, make_url, select
from sqlalchemy import create_engine as _create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

CONNECT_TIMEOUT_S = 2
STATEMENT_TIMEOUT_MS = 30_000
# A client that vanished behind a half-open link leaves its transaction, and with it the locks on what it wrote.
IDLE_TIMEOUT_MS = 60_000
# A server that lives ends a statement by itself; when so much later nothing was heard, its reply will never come.
REPLY_SLACK_S = 2.0
_KEEPALIVE = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "5000",
}


class DatabaseUnavailable(Exception):  # reads as what happened
    """The database cannot be reached; start it, or correct TRIMTAB_DATABASE_URL."""


class WrongDatabaseUrl(ValueError):
    """TRIMTAB_DATABASE_URL must look like postgresql://user:password@host:5432/name."""


def parse_url(url: str) -> URL:
    """Return the URL with the psycopg 3 driver; any ``postgres`` or ``postgresql`` scheme is taken.

    Raises:
        WrongDatabaseUrl: if it is not the URL of a Postgres database. The message never shows the password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise WrongDatabaseUrl(WrongDatabaseUrl.__doc__) from None
    if not re.fullmatch(r"postgres(ql)?(\+psycopg)?", parsed.drivername) or not (parsed.database or urlsplit(url).path):
        raise WrongDatabaseUrl(WrongDatabaseUrl.__doc__)
    return parsed.set(drivername="postgresql+psycopg")


def _connect_arguments(*, statement_timeout_ms: int, idle_timeout_ms: int, seq_scans: bool) -> dict[str, str | int]:
    settings = {
        "enable_seqscan": "on" if seq_scans else "off",
        "jit": "on" if seq_scans else "off",  # what has no index would seem dear enough to be compiled
        "statement_timeout": statement_timeout_ms,
        "idle_in_transaction_session_timeout": idle_timeout_ms,
        "synchronous_commit": "on",
        "timezone": "UTC",
    }
    return {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        **_KEEPALIVE,
    }


class _ImpatientConnection(psycopg.Connection[Any]):
    """A connection that is closed when a reply does not come: a link half open would hold its thread for ever."""

    patience_s: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        patience = self.patience_s if timeout is None else timeout
        try:
            return super().wait(gen, interval, patience)
        except psycopg.errors._WaitTimeout:
            if timeout is None:
                self.close()
            raise

    def __del__(self, _warn: object = None, /) -> None:
        """Close what a pool has let go of: while a hung database holds it, its engine may be disposed of."""
        self.close()


def create_engine(
    url: str,
    *,
    pool_size: int = 5,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    idle_timeout_ms: int = IDLE_TIMEOUT_MS,
    seq_scans: bool = True,
) -> Engine:
    """Return a sync engine. A connection that cannot be had within two seconds is an error, never a wait.

    Args:
        url: as for ``parse_url``.
        pool_size: connections at most.
        statement_timeout_ms: after which the server ends a statement; 0 for never.
        idle_timeout_ms: after which the server ends a transaction whose client says nothing; 0 for never.
        seq_scans: False for what always goes by an index. A prepared statement's plan that was made while a table was
            tiny would read all of it for each row, until the table is analysed anew.
    """
    engine = _create_engine(
        parse_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT_S,
        hide_parameters=True,  # an error's text is kept and logged, and values may be what users wrote
        connect_args=_connect_arguments(
            statement_timeout_ms=statement_timeout_ms, idle_timeout_ms=idle_timeout_ms, seq_scans=seq_scans
        ),
    )

    def connect(_dialect: object, _record: object, arguments: list[Any], named: dict[str, Any]) -> psycopg.Connection:
        connection = _ImpatientConnection.connect(*arguments, **named)
        if statement_timeout_ms:
            connection.patience_s = statement_timeout_ms / 1000 + REPLY_SLACK_S
        return connection

    event.listen(engine, "do_connect", connect)
    return engine


def database_time(conn: Connection) -> datetime:
    """Return the time by the database's clock, which every stored time is of; that of the machine here may be off."""
    now: datetime = conn.execute(select(func.clock_timestamp())).scalar_one()
    return now
