"""Server processes that are stopped again and again, or whose clock is a day off."""

import json
import os
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path

import libfaketime
import pytest
from sqlalchemy import text

from learner import lease
from telemetry.ids import new_id
from telemetry.inferences import store_inferences
from telemetry.records import Inference, Payload
from tests.api.cli.conftest import served_home
from tests.api.cli.processes import serving, trimtab
from tests.api.cli.test_robustness import missing
from tests.faults.ledger import Ledger, check_promises

__all__ = ["served_home"]
STOP_SECONDS = 15  # ten to drain, for a connection that came at the last moment and goes on asking
FAKETIME = Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"


@pytest.mark.fault("SIGTERM under load")
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_server_is_stopped_under_load_twenty_times_and_nothing_acknowledged_is_lost(served_home):
    acknowledged = []
    for _ in range(20):
        with serving(served_home) as server:
            ledger = Ledger(server.address, finish_seconds=0)
            with ledger.working():
                ledger.wait_for_more(20)
                began = time.monotonic()
                assert server.end(signal.SIGTERM) == 0
                assert time.monotonic() - began < STOP_SECONDS
            assert set(ledger.statuses["log"]) <= {201, 0, 503}
            acknowledged += ledger.acknowledged
    assert missing(served_home, acknowledged) == []


def clock(days):
    """The environment of processes whose clock is so many days off; waiting takes as long as ever."""
    return {"LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{days:+}d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def needs_faketime():
    if not FAKETIME.exists() or os.uname().machine != "x86_64":
        pytest.skip("libfaketime is not built for this machine")


@pytest.mark.fault("clocks a day off")
@pytest.mark.slow
@pytest.mark.parametrize("days", [1, pytest.param(-1, marks=pytest.mark.long)])
def test_a_server_and_a_learner_whose_clock_is_a_day_off(home, database, stored, days):
    needs_faketime()
    off = clock(days)
    with serving(home, TRIMTAB_DATABASE_URL=database.url, **off) as server:
        ledger = Ledger(server.address)
        with ledger.working():
            ledger.wait_for_more(30)
        check_promises(ledger, stored)
        with stored.begin() as conn:
            late = "select max(abs(extract(epoch from clock_timestamp() - occurred_at))) from inference"
            assert conn.execute(text(late)).scalar_one() < 300  # the database's clock counts
            lease.acquire(conn, holder="another learner")
        refused = trimtab(home, "learn", TRIMTAB_DATABASE_URL=database.url, **off)
        assert refused.returncode == 1
        assert "Another learner is at work" in refused.stderr


@pytest.mark.fault("clocks a day off")
@pytest.mark.slow
def test_what_is_pruned_and_when_a_key_ends_go_by_the_clock_of_the_database(home, database, stored):
    needs_faketime()
    with stored.begin() as conn:
        store_inferences(conn, [Inference(inference_id=new_id(), payload=Payload(query="of now"), payload_sha256=b"x")])

    def command(*arguments):
        done = trimtab(home, *arguments, "--json", TRIMTAB_DATABASE_URL=database.url, **clock(1))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert command("prune", "--older-than", "12h", "--text-older-than", "12h") == {}
    made = command("keys", "create", "shop", "--scope", "decide", "--expires", "12h")
    begun, ends = (datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
    assert ends - begun < timedelta(hours=13)
