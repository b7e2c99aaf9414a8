"""The database of a command or a server: the one that is set, or the embedded one, started on demand and migrated."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from api.settings import Settings
from telemetry import embedded_postgres, migrate
from telemetry.database import DatabaseUnavailable, create_engine
from telemetry.embedded_postgres import EmbeddedPostgres


class NotMigrated(RuntimeError):
    """The database has not this version's tables; run trimtab migrate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDatabase:
    """A migrated database; ``embedded`` is ours to keep alive, None for any other server."""

    url: str
    engine: Engine
    embedded: EmbeddedPostgres | None


@contextlib.contextmanager
def open_database(settings: Settings, *, upgrade: bool = False) -> Iterator[OpenDatabase]:
    """Open the database; the embedded one is migrated by itself, another one when ``upgrade`` says so.

    Raises:
        DatabaseUnavailable: it cannot be reached.
        NotMigrated: it is not the embedded one and lacks migrations.
    """
    embedded = None
    if settings.database_url is None:
        embedded = embedded_postgres.start(settings.home_folder, pg_bin=settings.pg_bin)
    url = settings.database_url or (embedded.url if embedded else "")
    engine = create_engine(url)
    try:
        _check(engine, url, upgrade=upgrade or embedded is not None)
        yield OpenDatabase(url=url, engine=engine, embedded=embedded)
    finally:
        engine.dispose()
        if embedded is not None:
            embedded.stop()


def _check(engine: Engine, url: str, *, upgrade: bool) -> None:
    try:
        with engine.connect() as connection:
            current = migrate.is_current(connection)
    except OperationalError:
        raise DatabaseUnavailable(DatabaseUnavailable.__doc__) from None
    if not current:
        if not upgrade:
            raise NotMigrated(NotMigrated.__doc__)
        migrate.upgrade(url)
