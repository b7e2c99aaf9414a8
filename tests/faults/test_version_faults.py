"""Versions that are missing or come fast."""

import time
from dataclasses import replace

import httpx
import pytest
from sqlalchemy import select, text

from router.registry import activate, load, publish
from telemetry.tables import router_version
from tests.api.cli.processes import wait_for


def decided_by(http):
    answer = http.post("/v1/route", json={"query": "where is my parcel", "log": False})
    assert answer.status_code == 200
    return answer.json()["router_version"]


@pytest.mark.fault("pointer to a missing version")
def test_a_pointer_to_a_version_that_lost_its_parts_is_not_followed(address, stored):
    with httpx.Client(base_url=address, timeout=15) as http:
        with stored.begin() as conn:
            other = replace(load(conn, 1), training={"made": "for a test"}, number=0, fingerprint="")
            publish(conn, other, actor="a test", reason="another", parent=1)
            conn.execute(text("delete from router_artifact where version = 2"))
        wait_for(lambda: http.get("/readyz").json()["problem"])
        said = http.get("/readyz").json()
        assert (said["status"], said["router_version"]) == ("degraded", 1)
        assert said["problem"].startswith("Version 2 is not served")
        assert decided_by(http) == 1
        with stored.begin() as conn:
            activate(conn, 1, kind="rollback", actor="a test", reason="it is not there")
        wait_for(lambda: http.get("/readyz").json()["status"] == "ready")


@pytest.mark.fault("50 publications in a minute")
@pytest.mark.slow
def test_fifty_publications_in_a_minute_are_followed_one_whole_version_at_a_time(address, stored):
    seen, statuses = [], set()
    with httpx.Client(base_url=address, timeout=15) as http, stored.connect() as conn:
        first = load(conn, 1)
        conn.rollback()
        began = time.monotonic()
        for n in range(50):
            with conn.begin():
                other = replace(first, training={"made": str(n)}, number=0, fingerprint="")
                published = publish(conn, other, actor="a test", reason="another", parent=1)
            answer = http.post("/v1/route", json={"query": "where is my parcel", "log": False})
            statuses.add(answer.status_code)
            seen.append(answer.json()["router_version"])
        assert time.monotonic() - began < 60
        wait_for(lambda: decided_by(http) == published.number == 51, seconds=5)
        known = set(conn.execute(select(router_version.c.number)).scalars())
        assert http.get("/readyz").json()["status"] == "ready"
    assert statuses == {200}
    assert seen == sorted(seen)
    assert set(seen) <= known
