"""Nights that are started over the API, as real processes."""

import time
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Engine

from api.settings import Settings
from learner import lease
from telemetry.database import create_engine
from tests.api.cli.processes import trimtab


@pytest.fixture
def held(module_url: str) -> Iterator[Engine]:
    """The database while another learner is at work."""
    engine = create_engine(module_url)
    with engine.begin() as conn:
        token = lease.acquire(conn, holder="another night")
    yield engine
    with engine.begin() as conn:
        lease.release(conn, token)
    engine.dispose()


def test_a_night_is_refused_at_once_while_another_learner_is_at_work(client: httpx.Client, held: Engine) -> None:
    answer = client.post("/v1/learner/runs", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "learner_busy")
    assert "is at work" in answer.json()["detail"]
    assert client.get("/v1/learner/runs").json()["data"] == []


@pytest.mark.slow
def test_a_second_night_is_refused_while_the_first_one_starts(client: httpx.Client) -> None:
    first = client.post("/v1/learner/runs", json={})
    assert first.status_code == 202
    second = client.post("/v1/learner/runs", json={})
    assert (second.status_code, second.json()["code"]) == (409, "learner_busy")
    end = time.monotonic() + 60
    while client.get(first.headers["location"]).json().get("status") != "finished":
        assert time.monotonic() < end
        time.sleep(0.2)
    while client.post("/v1/learner/runs", json={}).status_code != 202:  # its process may be ending still
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
def test_a_night_that_finds_another_at_work_is_told_under_its_id(
    client: httpx.Client, held: Engine, module_url: str, app_settings: Settings
) -> None:
    run_id = str(uuid4())
    done = trimtab(app_settings.home, "learn", "--run-id", run_id, TRIMTAB_DATABASE_URL=module_url)
    assert (done.returncode, "is at work" in done.stderr) == (1, True)
    shown = client.get(f"/v1/learner/runs/{run_id}").json()
    assert (shown["status"], shown["error"].split(":")[0]) == ("failed", "LeaseHeld")
