"""Nights that are started over the API, as real processes."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Engine, text

from api.settings import Settings
from learner import lease
from telemetry.database import create_engine
from tests.api.cli.processes import trimtab, wait_for


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
def test_of_nights_asked_for_at_once_one_starts_and_others_are_refused_while_it_does(
    client: httpx.Client, module_url: str
) -> None:
    answers = two_at_once(client, module_url)
    assert [answer.status_code for answer in answers] == [202, 409]
    first, *refused = [*answers, client.post("/v1/learner/runs", json={})]
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(409, "learner_busy")}
    end = time.monotonic() + 60
    while client.get(first.headers["location"]).json().get("status") != "finished":
        assert time.monotonic() < end
        time.sleep(0.2)
    while client.post("/v1/learner/runs", json={}).status_code != 202:  # its process may be ending still
        assert time.monotonic() < end
        time.sleep(0.2)


def two_at_once(client: httpx.Client, url: str) -> list[httpx.Response]:
    """Two answers, by status; the server cannot see whether a learner is at work before both were asked for."""
    engine = create_engine(url)
    waiting = text("select count(*) from pg_locks where relation = 'learner_lease'::regclass and not granted")
    with ThreadPoolExecutor() as pool:
        with engine.begin() as conn:
            conn.execute(text("lock table learner_lease in access exclusive mode"))
            asked = [pool.submit(client.post, "/v1/learner/runs", json={}) for _ in range(2)]
            wait_for(lambda: conn.execute(waiting).scalar_one() + sum(one.done() for one in asked) == 2, seconds=20)
        answers = [one.result() for one in asked]
    engine.dispose()
    return sorted(answers, key=lambda answer: answer.status_code)


@pytest.mark.slow
def test_a_night_that_finds_another_at_work_is_told_under_its_id(
    client: httpx.Client, held: Engine, module_url: str, app_settings: Settings
) -> None:
    run_id = str(uuid4())
    done = trimtab(app_settings.home, "learn", "--run-id", run_id, TRIMTAB_DATABASE_URL=module_url)
    assert (done.returncode, "is at work" in done.stderr) == (1, True)
    shown = client.get(f"/v1/learner/runs/{run_id}").json()
    assert (shown["status"], shown["error"].split(":")[0]) == ("failed", "LeaseHeld")
