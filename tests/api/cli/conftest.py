"""One home for all process tests of a worker: database, encoder and version 1 are made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry import embedded_postgres
from tests.api.cli.processes import trimtab


@pytest.fixture(scope="session")
def served_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("served")
    made = trimtab(folder, "prepare")
    assert made.returncode == 0, made.stderr
    yield folder
    embedded_postgres.remove(folder)
