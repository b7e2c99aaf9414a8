"""Keys with real server processes: revoked in all of them within five seconds; who is let in without any."""

import time

import httpx
import pytest

from telemetry import embedded_postgres
from tests.api.cli.processes import serving, trimtab

pytestmark = pytest.mark.slow
QUESTION = {"query": "where is my parcel", "log": False}


def status(server, key):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.post(f"{server.address}/v1/route", json=QUESTION, headers=headers, timeout=10).status_code


def test_a_key_made_while_two_servers_run_closes_both_and_revoked_it_is_refused_by_both_within_five_seconds(tmp_path):
    try:
        with serving(tmp_path, "--workers", "2") as first:
            running = embedded_postgres.start(tmp_path)
            with serving(tmp_path, TRIMTAB_DATABASE_URL=running.url) as second:
                servers = (first, second)
                assert all("none: it answers this machine only" in server.printed() for server in servers)
                assert [status(server, None) for server in servers] == [200, 200]
                key = trimtab(tmp_path, "keys", "create", "gateway", "--scope", "decide").stdout.strip()
                time.sleep(5)
                assert [[status(server, one) for one in (None, key)] for server in servers] == [[401, 200]] * 2
                assert trimtab(tmp_path, "keys", "revoke", "gateway").returncode == 0
                time.sleep(5)
                # Both worker processes of the first one answer some of so many connections.
                answers = {status(server, key) for server in servers for _ in range(30)}
                assert answers == {401}
            running.stop()
        with serving(tmp_path) as closed:
            assert "every call but for health needs one" in closed.printed()
            assert status(closed, None) == 401
    finally:
        embedded_postgres.remove(tmp_path)
