"""The power is cut, or a disk is full, while the server works."""

import contextlib

import psycopg
import pytest

from telemetry import embedded_postgres
from telemetry.database import create_engine
from telemetry.postgres_binaries import ServerUser, state_folder
from tests.api.cli.processes import wait_for
from tests.api.conftest import running
from tests.faults.conftest import kept
from tests.faults.disks import disk_with_a_plug, small_disk
from tests.faults.ledger import Ledger, check_promises
from tests.faults.processes import kill, processes_of


@pytest.fixture
def folder(tmp_path):
    """A folder whose database is stopped and removed at the end."""
    yield tmp_path
    with contextlib.suppress(OSError):
        embedded_postgres.remove(tmp_path)


@contextlib.contextmanager
def started(folder):
    server = embedded_postgres.start(folder)
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.fault("power cut")
@pytest.mark.slow
def test_the_power_is_cut(tmp_path_factory, folder, fill, app_settings):
    place = state_folder(folder, ServerUser.choose())
    image = tmp_path_factory.mktemp("disk") / "image"
    with disk_with_a_plug(image, place) as disk, started(folder) as server:
        fill(server.url)
        with running(app_settings, server.url) as address:
            ledger = Ledger(address)
            with ledger.working():
                for _ in range(2):
                    ledger.wait_for_more(40)
                    pids = processes_of(server)
                    disk.pull()
                    kill(pids)
                    disk.plug_in()
                    assert server.restart_if_dead()
                ledger.wait_for_more(20)
            engine = create_engine(server.url)
            check_promises(ledger, engine)
            engine.dispose()


@pytest.mark.fault("data disk full")
@pytest.mark.slow
def test_the_disk_of_the_tables_is_full_for_a_while(folder, fill, app_settings):
    with started(folder) as server:
        fill(server.url)
    with small_disk(server._place.data / "base", megabytes=64) as disk, started(folder) as server:
        check_full(disk, server, app_settings)


@pytest.mark.fault("WAL disk full")
@pytest.mark.slow
def test_the_disk_of_the_log_is_full_for_a_while(folder, fill, app_settings):
    with started(folder) as server:
        fill(server.url)
    with small_disk(server._place.data / "pg_wal", megabytes=96) as disk, started(folder) as server, kept(server):
        check_full(disk, server, app_settings, switch_log=True)


def check_full(disk, server, app_settings, *, switch_log=False):
    engine = create_engine(server.url)
    with running(app_settings, server.url) as address:
        ledger = Ledger(address)
        with ledger.working():
            ledger.wait_for_more(20)
            disk.fill()
            if switch_log:
                with contextlib.suppress(psycopg.Error), psycopg.connect(server.url, autocommit=True) as conn:
                    for _ in range(10):  # through the segments that lie ready to the one that has no room
                        conn.execute("select pg_logical_emit_message(false, 'x', 'y')")
                        conn.execute("select pg_switch_wal()")
            wait_for(lambda: ledger.statuses["log"][503] > 5, seconds=60)
            disk.free()
            ledger.wait_for_more(20)
        engine.dispose()
        check_promises(ledger, engine)
    engine.dispose()
