"""What several processes of one server count, as Prometheus reads it from any of them."""

import os
import re
import signal

import httpx
import pytest

from tests.api.cli.processes import serving, wait_for

pytestmark = pytest.mark.slow
WORKERS = 3


def ask(address: str, path: str, body: object = None) -> httpx.Response:
    """One request over a connection of its own, so that any process may answer it."""
    method = "GET" if body is None else "POST"
    return httpx.request(method, f"{address}{path}", json=body, timeout=20).raise_for_status()


def scrape(address: str) -> dict[str, float]:
    lines = (line.rsplit(" ", 1) for line in ask(address, "/metrics").text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def processes(address: str) -> set[str]:
    return set(re.findall(r'trimtab_router_version{pid="(\d+)"}', "\n".join(scrape(address))))


def test_whichever_process_is_asked_the_figures_are_those_of_all(module_url, home, fleet_file):
    given = {"TRIMTAB_DATABASE_URL": module_url, "TRIMTAB_FLEET": str(fleet_file)}
    with serving(home, "--workers", str(WORKERS), **given) as server:
        address = server.address
        pids = wait_for(lambda: len(found := processes(address)) == WORKERS and found, seconds=60)
        decided = [ask(address, "/v1/route", {"query": "where is my parcel", "log": False}) for _ in range(40)]
        for i in range(20):
            ask(address, "/v1/inferences", {"query": f"question {i}", "decision": {"route": "billing"}})
        wait_for(lambda: scrape(address)["trimtab_events_stored"] == 20)
        shown = [scrape(address) for _ in range(12)]
        assert {s['trimtab_requests_total{path="/v1/route",status="200"}'] for s in shown} == {len(decided)}
        assert {s['trimtab_splits_total{split="no"}'] for s in shown} == {len(decided)}
        assert {s["trimtab_decide_seconds_count"] for s in shown} == {len(decided)}
        assert {s["trimtab_events_stored"] for s in shown} == {20}
        os.kill(int(min(pids)), signal.SIGKILL)
        wait_for(lambda: len(found := processes(address)) == WORKERS and found != pids, seconds=60)
        after = scrape(address)
        assert after['trimtab_requests_total{path="/v1/route",status="200"}'] == len(decided)
        assert after["trimtab_events_stored"] == 20
        folder = home / "metrics"
        assert [path.name for path in folder.iterdir()] == [str(server.process.pid)]
        server.end(signal.SIGTERM)
    assert list(folder.iterdir()) == []
