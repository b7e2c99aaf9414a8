"""Counting rows, to show that a bad request leaves none."""

import pytest
from sqlalchemy import text

from telemetry.database import create_engine
from telemetry.tables import metadata


@pytest.fixture(scope="module")
def rows(module_url):
    """Counts the rows of every table."""
    engine = create_engine(module_url, pool_size=1)
    counts = " union all ".join(f"select '{t.name}', count(*) from {t.name}" for t in metadata.sorted_tables)

    def count():
        with engine.connect() as connection:
            return dict(connection.execute(text(counts)).all())

    yield count
    engine.dispose()
