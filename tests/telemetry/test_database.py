import gc
import time

import pytest
from psycopg.pq import ConnStatus
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from telemetry.database import create_engine


def test_a_connection_that_comes_back_after_its_engine_was_disposed_of_is_closed(database_url):
    engine = create_engine(database_url)
    with engine.connect() as late:
        late.execute(text("select 1"))
        link = late.connection.driver_connection.pgconn
        engine.dispose()
    assert link.status == ConnStatus.OK
    del late, engine
    gc.collect()
    assert link.status == ConnStatus.BAD


def test_a_transaction_whose_client_says_nothing_is_ended_and_its_locks_go(database_url):
    silent, other = create_engine(database_url, idle_timeout_ms=300), create_engine(database_url)
    lock = text("select pg_advisory_xact_lock(77)")
    conn = silent.connect()
    conn.execute(lock)
    began = time.monotonic()
    with other.begin() as waiting:
        waiting.execute(lock)
    assert time.monotonic() - began < 5
    with pytest.raises(DBAPIError, match="idle-in-transaction timeout"):
        conn.execute(text("select 1"))
    conn.close()
    silent.dispose()
    other.dispose()
