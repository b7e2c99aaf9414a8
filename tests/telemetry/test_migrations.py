import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, event, text

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


@pytest.mark.fault("five migrations at once")
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


SMALL = r"alter table (router|learner)_"  # a row a version or a night: a scan of them is over at once
FINE = (
    "prefer-bigint-over-int",  # numbers of versions and attempts stay small
    "prefer-bigint-over-smallint",
    "require-statement-timeout",  # lock_timeout is what guards the others; a migration itself may take its time
)


def executed(url: str, revision: str) -> list[str]:
    """The statements of the migrations up to ``revision``, as the server gets them."""
    found: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        found.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        migrate.upgrade(url, revision)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return [
        " ".join(s.split()) for s in found if re.match(r"\s*(create|alter|drop|comment|set|update|insert)\b", s, re.I)
    ]


def test_no_migration_takes_a_lock_that_stops_a_running_server(empty_url: str, tmp_path: Path) -> None:
    executed(empty_url, "0001")  # made when there was nothing to lock
    statements = [s for s in executed(empty_url, "head") if not re.match(SMALL, s, re.I)]
    file = tmp_path / "migrations.sql"
    file.write_text(";\n".join(statements) + ";\n")
    squawk = next(path.locate() for path in distribution("squawk-cli").files or () if path.name == "squawk")
    command = [squawk, "--assume-in-transaction", "--pg-version=16.0", f"--exclude={','.join(FINE)}", file]
    found = subprocess.run([*command, "--reporter=gcc"], capture_output=True, text=True, check=False)
    assert statements
    assert found.returncode == 0, found.stdout


def test_a_migration_lets_go_of_a_lock_that_it_cannot_have_and_tries_again(empty_url: str) -> None:
    migrate.upgrade(empty_url, "0001")
    with psycopg.connect(empty_url) as reader:
        reader.execute("select count(*) from inference")  # and the transaction stays open
        migrating = threading.Thread(target=migrate.upgrade, args=(empty_url,))
        migrating.start()
        time.sleep(5.5)
        assert migrating.is_alive()
        with psycopg.connect(empty_url, options="-c statement_timeout=4000") as other:
            assert other.execute("select count(*) from inference").fetchone() == (0,)  # nothing queues for ever
        reader.rollback()
        migrating.join(60)
    assert set(metadata.tables) < tables(empty_url)
