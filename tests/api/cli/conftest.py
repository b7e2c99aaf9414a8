"""One home for all process tests of a worker: database, encoder and version 1 are made once."""

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from telemetry import embedded_postgres
from tests.api.cli.processes import trimtab


@pytest.fixture(scope="session")
def served_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("served")
    made = trimtab(folder, "prepare")
    assert made.returncode == 0, made.stderr
    yield folder
    embedded_postgres.remove(folder)


@pytest.fixture
def empty_url(server: embedded_postgres.EmbeddedPostgres) -> Iterator[str]:
    """A database without tables."""
    name = f"trimtab_empty_{os.getpid()}"
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield server.url.replace("/trimtab?", f"/{name}?")
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
