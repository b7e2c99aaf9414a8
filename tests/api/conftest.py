"""A real server: uvicorn in a thread on a free loopback port, on this worker's database, with the real encoder."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text

from api.app import create_app
from api.protocol import SheddingProtocol
from api.settings import Settings, read_settings
from learner.first_version import build_first_version
from router.encoder import Encoder, load_encoder
from router.fleet import Fleet, parse_fleet
from router.registry import publish
from telemetry.database import create_engine
from telemetry.tables import metadata

FLEET = """
fallback: general
routes:
  - name: billing
    description: Invoices, refunds, payment methods
    utterances: [why was I charged twice, I want a refund, send me the invoice, change my payment method]
    keywords: [invoice number]
    model: billing-slm
  - name: delivery
    description: Parcels and shipping
    utterances: [where is my parcel, when will my order arrive, the courier did not come, change the delivery address]
    model: delivery-slm
  - name: account
    description: Login and profile
    utterances: [I forgot my password, change my e-mail address, delete my account, I cannot log in]
    model: account-slm
  - name: general
"""


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def encoder(home: Path) -> Encoder:
    return load_encoder(home=home)


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    return parse_fleet(FLEET, source="fleet.yaml")


@pytest.fixture(scope="session")
def fleet_file(home: Path) -> Path:
    path = home / "fleet.yaml"
    path.write_text(FLEET)
    return path


@pytest.fixture(scope="session")
def app_settings(home: Path, fleet_file: Path) -> Settings:
    return read_settings(home=home, fleet=fleet_file)


@pytest.fixture(scope="module")
def module_url(_worker_url: str, fleet: Fleet, encoder: Encoder) -> str:
    """This worker's database, emptied once for the module, with version 1 published."""
    engine = create_engine(_worker_url)
    with engine.begin() as conn:
        tables = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
        conn.execute(text(f"truncate {tables} restart identity cascade"))
        version = build_first_version(fleet, encoder=encoder)
        publish(conn, version, actor="test", reason="from the fleet", parent=None)
    engine.dispose()
    return _worker_url


@contextlib.contextmanager
def running(settings: Settings, url: str) -> Iterator[str]:
    """Run the real application on a free port and yield its address."""
    with serving(create_app(settings, database_url=url)) as address:
        yield address


@contextlib.contextmanager
def serving(app: FastAPI, *, keep_alive_seconds: int = 5) -> Iterator[str]:
    """Serve this application as the server does, on a free port, and yield its address."""
    config = uvicorn.Config(
        app,
        port=0,
        http=SheddingProtocol,
        log_level="error",
        lifespan="on",
        timeout_keep_alive=keep_alive_seconds,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(module_url: str, app_settings: Settings) -> Iterator[httpx.Client]:
    with running(app_settings, module_url) as address, httpx.Client(base_url=address, timeout=20) as http:
        yield http


@pytest.fixture(scope="module")
def rows(module_url: str) -> Iterator[Callable[[], dict[str, int]]]:
    """Counts the rows of every table."""
    engine = create_engine(module_url, pool_size=1)
    counts = " union all ".join(f"select '{t.name}', count(*) from {t.name}" for t in metadata.sorted_tables)

    def count() -> dict[str, int]:
        with engine.connect() as connection:
            return dict(connection.execute(text(counts)).all())

    yield count
    engine.dispose()
