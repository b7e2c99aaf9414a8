import subprocess
import sys
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from telemetry import migrate
from telemetry.database import create_engine
from telemetry.embedded_postgres import EmbeddedPostgres
from telemetry.tables import metadata

ROWS = """
insert into inference (inference_id, trace_id, span_id, sources) values ('{id}', 't', 's', array['route']);
insert into segment (inference_id, segment_index) values ('{id}', 0);
insert into inference_payload (inference_id, query) values ('{id}', 'q');
insert into inference_alias values ('trace', 't', '{id}');
insert into feedback (feedback_id, revision, op, target_kind, target_value, resolution, payload_sha256)
    values ('{id}', 1, 'create', 'trace', 't', 'pending', '');
insert into router_version (fingerprint, manifest, encoder, fleet, status, created_by)
    values ('f', '{{}}', 'e', 'f', 'active', 'me');
insert into router_artifact values (1, 'p', 's', '');
insert into router_activation (version, kind, actor, reason, hash) values (1, 'publish', 'me', 'why', 'h');
insert into learner_lease values ('night', 1);
insert into learner_run (run_id, fencing_token, status) values ('{id}', 1, 'running');
insert into mined_failure (run_id, inference_id, kind, evidence, weight) values ('{id}', '{id}', 'reask', '{{}}', 1);
insert into learner_consumption values ('{id}', 1, 1);
insert into golden_query (golden_id, query, routes, added_by) values ('g', 'q', array['r'], 'me');
insert into notification (body) values ('{{}}');
insert into dead_letter (endpoint, reason_code, raw) values ('x', 'y', '');
insert into api_key (key_id, name, sha256, scopes, limits, created_by)
    values ('k', 'n', '', array['read'], '{{}}', 'me');
insert into erasure (counts) values ('{{}}');
"""


@pytest.fixture
def empty_url(server: EmbeddedPostgres) -> Iterator[str]:
    name = f"migrations_{uuid.uuid4().hex}"
    with psycopg.connect(server.url.replace("/trimtab?", "/postgres?"), autocommit=True) as admin:
        admin.execute(f'create database "{name}"')
        yield server.url.replace("/trimtab?", f"/{name}?")
        admin.execute(f'drop database "{name}" with (force)')


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as conn:
        return {row[0] for row in conn.execute("select tablename from pg_tables where schemaname = 'public'")}


def test_up_down_and_up_again_with_rows_in_every_table(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    with psycopg.connect(empty_url) as conn:
        conn.execute(ROWS.format(id=uuid.uuid4()))  # type: ignore[arg-type]
        for table in metadata.sorted_tables:
            count = conn.execute(f'select count(*) from "{table.name}"').fetchone()  # type: ignore[arg-type]
            assert count == (1,), table.name
    migrate.downgrade(empty_url, "base")
    assert tables(empty_url) == {"alembic_version"}
    migrate.upgrade(empty_url)
    assert tables(empty_url) == {"alembic_version", *metadata.tables}


def test_migrations_and_tables_agree(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        assert migrate.is_current(conn)
    engine.dispose()


def test_five_processes_may_migrate_at_once(empty_url: str) -> None:
    code = "import sys; from telemetry import migrate; migrate.upgrade(sys.argv[1])"
    processes = [subprocess.Popen([sys.executable, "-c", code, empty_url]) for _ in range(5)]
    assert [process.wait(60) for process in processes] == [0] * 5
    assert set(metadata.tables) < tables(empty_url)


def test_a_database_that_was_never_migrated_is_not_current(empty_url: str) -> None:
    engine = create_engine(empty_url)
    with engine.connect() as conn:
        assert migrate.current(conn) is None
        assert not migrate.is_current(conn)
        assert conn.execute(text("select 1")).scalar_one() == 1
    engine.dispose()
