"""A real Postgres for every test: one server a session, a database a worker, cloned from a migrated template."""

import getpass
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Connection, Engine, text

from telemetry import embedded_postgres, migrate
from telemetry.database import create_engine
from telemetry.embedded_postgres import EmbeddedPostgres
from telemetry.records import StoreResult
from telemetry.tables import metadata
from tests.faults.counting import pytest_collection_modifyitems, pytest_terminal_summary

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary"]

TEMPLATE = "trimtab_template"
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    """The embedded server, shared by all workers through its own reference counting."""
    home = Path(tempfile.gettempdir()) / f"trimtab-tests-{getpass.getuser()}"
    running = embedded_postgres.start(home)
    yield running
    running.stop()


def _admin(server: EmbeddedPostgres) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(server.url.replace("/trimtab?", "/postgres?"), autocommit=True)


def _database(server: EmbeddedPostgres, name: str) -> str:
    return server.url.replace("/trimtab?", f"/{name}?")


@pytest.fixture(scope="session")
def template(server: EmbeddedPostgres) -> str:
    """A migrated database to clone, made once by whichever worker comes first and brought to the newest revision."""
    with _admin(server) as admin:
        admin.execute("select pg_advisory_lock(7)")
        if not admin.execute("select 1 from pg_database where datname = %s", (TEMPLATE,)).fetchone():
            admin.execute(sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
        engine = create_engine(_database(server, TEMPLATE))
        with engine.connect() as connection:
            stale = not migrate.is_current(connection)
        engine.dispose()
        if stale:
            migrate.upgrade(_database(server, TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope="session")
def _worker_url(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"trimtab_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"
    with _admin(server) as admin:
        admin.execute("select pg_advisory_lock(7)")
        clone = sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        admin.execute(clone)
    yield _database(server, name)
    with _admin(server) as admin:
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def database_url(_worker_url: str) -> str:
    """The URL of this worker's database, emptied before the test."""
    engine = create_engine(_worker_url)
    with engine.begin() as connection:
        tables = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
        connection.execute(text(f"truncate {tables} restart identity cascade"))
    engine.dispose()
    return _worker_url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A sync engine on this worker's empty database."""
    engine = create_engine(database_url, pool_size=20)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """An open connection; what the test does not commit is rolled back."""
    with engine.connect() as connection:
        yield connection


@pytest.fixture
def until_waiting(engine: Engine) -> Callable[[int], None]:
    """Returns what waits until so many transactions of this worker's database wait for locks of others."""
    statement = text(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    )

    def until_waiting(number: int) -> None:
        end = time.monotonic() + 20
        with engine.connect() as connection:
            while connection.execute(statement).scalar_one() < number:
                assert time.monotonic() < end, "they do not wait"
                connection.rollback()
                time.sleep(0.01)

    return until_waiting


@pytest.fixture
def stored_in_two_orders(
    engine: Engine, until_waiting: Callable[[int], None]
) -> Callable[..., list[list[StoreResult]]]:
    """Returns what stores three items in two transactions at once, in both orders, and gives the results of each."""

    def stored_in_two_orders(
        store: Callable[[Connection, list[Any]], list[StoreResult]], items: list[Any]
    ) -> list[list[StoreResult]]:
        def send(order: list[Any]) -> list[StoreResult]:
            with engine.begin() as conn:
                return store(conn, order)

        with ThreadPoolExecutor(2) as pool:
            with engine.begin() as conn:
                store(conn, [items[1]])  # each of the two stores up to this one, then both go on
                sent = [pool.submit(send, order) for order in (items, items[::-1])]
                until_waiting(2)
            return [future.result() for future in sent]

    return stored_in_two_orders


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The public benchmark data; tests that need it are skipped where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the public benchmark data is not at {SHARED_DATA.name} beside the checkout")
    return SHARED_DATA
