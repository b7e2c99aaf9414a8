"""The real server in this process, on a Postgres of its own that may be hurt, with a proxy between the two."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, text

from api.server_process import _keep_database
from api.settings import Settings
from learner.first_version import build_first_version
from router.encoder import Encoder
from router.fleet import Fleet
from router.registry import publish
from telemetry import embedded_postgres, migrate
from telemetry.database import create_engine
from telemetry.embedded_postgres import EmbeddedPostgres
from telemetry.tables import metadata
from tests.api.conftest import app_settings, encoder, fleet, fleet_file, home, running
from tests.faults.ledger import Ledger
from tests.faults.proxy import ChaosProxy, proxied

__all__ = ["app_settings", "encoder", "fleet", "fleet_file", "home"]
Fill = Callable[[str], None]


@pytest.fixture(scope="session")
def fill(fleet: Fleet, encoder: Encoder) -> Fill:
    """Gives a database its tables and version 1, and nothing else."""
    version = build_first_version(fleet, encoder=encoder)

    def work(url: str) -> None:
        migrate.upgrade(url)
        engine = create_engine(url)
        with engine.begin() as conn:
            tables = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
            conn.execute(text(f"truncate {tables} restart identity cascade"))
            publish(conn, version, actor="test", reason="from the fleet", parent=None)
        engine.dispose()

    return work


@contextlib.contextmanager
def kept(server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """Bring the database back whenever it dies, as ``serve`` does."""
    stop = threading.Event()
    keeper = threading.Thread(target=_keep_database, args=(server, stop))
    keeper.start()
    try:
        yield server
    finally:
        stop.set()
        keeper.join()


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A Postgres that may be hurt, kept alive."""
    folder = tmp_path_factory.mktemp("own")
    server = embedded_postgres.start(folder)
    with kept(server):
        yield server
    server.stop()
    embedded_postgres.remove(folder)


@pytest.fixture
def database(own: EmbeddedPostgres, fill: Fill) -> EmbeddedPostgres:
    """That Postgres with version 1 and nothing else."""
    fill(own.url)
    return own


@pytest.fixture
def stored(database: EmbeddedPostgres) -> Iterator[Engine]:
    """A way to the database that no fault lies on."""
    engine = create_engine(database.url)
    yield engine
    engine.dispose()


@pytest.fixture
def chaos(database: EmbeddedPostgres) -> Iterator[tuple[ChaosProxy, str]]:
    """A proxy before the database, and the URL through it."""
    with proxied(database.url) as both:
        yield both


@pytest.fixture
def proxy(chaos: tuple[ChaosProxy, str]) -> ChaosProxy:
    return chaos[0]


@pytest.fixture
def address(chaos: tuple[ChaosProxy, str], app_settings: Settings) -> Iterator[str]:
    """The server, whose database is behind the proxy."""
    with running(app_settings, chaos[1]) as found:
        yield found


@pytest.fixture
def ledger(address: str) -> Ledger:
    return Ledger(address)
