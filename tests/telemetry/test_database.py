import gc

from psycopg.pq import ConnStatus
from sqlalchemy import text

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
