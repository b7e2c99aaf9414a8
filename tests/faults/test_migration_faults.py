"""The schema changes while servers work: under traffic, half-way, and with code that is older than the schema."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

import migrations
from telemetry import migrate
from telemetry.tables import inference
from tests.api.cli.processes import wait_for
from tests.faults.ledger import check_promises

NEXT = """
import os, signal

import sqlalchemy as sa
from alembic import op

revision = "the_next_one"
down_revision = "{head}"


def upgrade():
    op.execute("set local lock_timeout = '1s'")
    op.add_column("inference", sa.Column("later", sa.Text()))
    if {dies}:
        os.kill(os.getpid(), signal.SIGKILL)
    op.create_index("inference_later", "inference", ["later"])
"""
MIGRATE = """
import sys
import migrations
from telemetry import migrate

migrations.__path__ = [sys.argv[2]]
migrate.upgrade(sys.argv[1])
"""


@pytest.fixture
def newer(tmp_path, stored):
    """Makes the migrations of a later release, which dies half-way or does not."""

    def make(*, dies=False):
        folder = tmp_path / f"migrations-{dies}"
        shutil.copytree(Path(migrations.__path__[0]), folder)
        with stored.connect() as conn:
            head = migrate.current(conn)
        (folder / "versions" / "next.py").write_text(NEXT.format(head=head, dies=dies))
        return folder

    yield make
    with stored.begin() as conn:
        conn.execute(text("alter table inference drop column if exists later"))
        conn.execute(text("update alembic_version set version_num = :head"), {"head": _head()})


def _head():
    return migrate.ScriptDirectory.from_config(migrate._config()).get_current_head()


def upgrade(database, folder):
    """Run the later release's ``trimtab migrate``."""
    return subprocess.Popen([sys.executable, "-c", MIGRATE, database.url, str(folder)])


def columns(engine):
    return {column["name"] for column in inspect(engine).get_columns(inference.name)}


@pytest.mark.fault("migration under traffic")
@pytest.mark.fault("old code on the new schema")
@pytest.mark.slow
def test_a_migration_under_traffic_hurts_nobody_and_old_code_goes_on_and_starts_on_the_new_schema(
    ledger, database, stored, newer
):
    with ledger.working():
        ledger.wait_for_more(20)
        with stored.connect() as reader:  # somebody reads for long: a change has to wait for that
            reader.execute(text("select count(*) from inference"))
            changing = upgrade(database, newer())
            waits = text("select count(*) from pg_locks where mode = 'AccessExclusiveLock' and not granted")
            with stored.connect() as watcher:
                wait_for(lambda: watcher.execute(waits).scalar_one(), seconds=60)
            ledger.wait_for_more(20)
            assert changing.poll() is None
        assert changing.wait(60) == 0
        ledger.wait_for_more(20)
    assert "later" in columns(stored)
    assert ledger.slowest["log"] < 4
    with stored.connect() as conn:
        assert migrate.is_current(conn)  # an old server may be started again
    migrate.upgrade(database.url)  # and takes nothing back
    assert "later" in columns(stored)
    check_promises(ledger, stored)


@pytest.mark.fault("migration crashed half-way")
@pytest.mark.slow
def test_a_migration_that_is_killed_half_way_leaves_nothing_and_is_made_again(ledger, database, stored, newer):
    with ledger.working():
        ledger.wait_for_more(10)
        assert upgrade(database, newer(dies=True)).wait(60) == -signal.SIGKILL
        wait_for(lambda: "later" not in columns(stored))
        ledger.wait_for_more(10)
        assert upgrade(database, newer()).wait(60) == 0
        ledger.wait_for_more(10)
    assert "later" in columns(stored)
    check_promises(ledger, stored)
