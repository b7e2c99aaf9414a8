"""Versions on trial with real server processes: stages and rollbacks by themselves, in one place, told to a webhook."""

import contextlib
import hashlib
import hmac
import json
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from api import rollouts
from learner.first_version import build_first_version
from router.encoder import load_encoder
from router.fleet import load_fleet
from router.registry import history, publish, read_version
from router.rollout import RolloutSettings, start_trial
from telemetry.ids import new_id
from telemetry.inferences import store_inferences
from telemetry.records import DecisionRecord, Inference, Payload
from tests.api.cli.processes import serving, trimtab, wait_for
from tests.router.samples import build_version

SECRET = "a secret of the operator"
# From 20 percent on after 20 sessions, from 50 on after 50 of the canary's: until then it must be found out.
QUICK = {
    "TRIMTAB_ROLLOUT__STAGE_MINUTES": "0.2",  # long enough for a dozen votes on each version, on slow machines too
    "TRIMTAB_ROLLOUT__STAGE_SESSIONS": "1",
    "TRIMTAB_ROLLOUT__FIRST_SHARE": "0.01",
    "TRIMTAB_ROLLOUT__SECOND_SHARE": "0.5",
}
FLEET = Path(__file__).parents[3] / "api" / "demo" / "sample_fleet.yaml"


@dataclass
class Receiver:
    """A webhook's receiver that fails the first ``failures`` times."""

    failures: int = 0
    seen: list[tuple[dict[str, Any], str, bytes]] = field(default_factory=list)

    @contextlib.contextmanager
    def listening(self) -> Iterator[str]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.failures -= 1
                self.send_response(503 if receiver.failures >= 0 else 204)
                self.end_headers()
                if receiver.failures < 0:
                    receiver.seen.append((json.loads(body), self.headers["x-trimtab-signature"], body))

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/hook"
            finally:
                server.shutdown()
                thread.join()

    def events(self) -> list[tuple[str, int | None]]:
        return [(body["event"], body.get("version")) for body, _, _ in self.seen]


@pytest.fixture(scope="module")
def versions(served_home: Path) -> tuple[Any, Any]:
    """A version, and one that is worse: it swaps the two busiest routes."""
    first = build_first_version(load_fleet(FLEET), encoder=load_encoder(home=served_home))
    owners = first.centroids.owners.copy()
    owners[:, [0, 1]] = owners[:, [1, 0]]
    return first, replace(first, centroids=replace(first.centroids, owners=owners))


@pytest.fixture
def on_trial(engine: Engine, versions: tuple[Any, Any]) -> int:
    with engine.begin() as conn:
        publish(conn, versions[0], actor="a test", reason="first", parent=None)
        return publish(conn, versions[1], actor="a test", reason="worse", parent=1, status="candidate").number


def kinds(engine: Engine) -> list[tuple[str, int, float]]:
    with engine.connect() as conn:
        return [(row.kind, row.version, row.share) for row in history(conn, order="asc")]


def converse(http: httpx.Client, text: str, right: str, *, judged: bool) -> int:
    """One session of one question; a vote says whether it went right. Returns the version that decided."""
    body = {"query": text, "session_id": str(uuid4()), "explore": False}
    answer = http.post("/v1/route", json=body).json()
    if judged:
        vote = {"inference_id": answer["inference_id"], "value": "up" if answer["route"] == right else "down"}
        assert http.post("/v1/feedback", json=vote).status_code in (201, 202)
    return int(answer["router_version"])


@pytest.mark.slow
@pytest.mark.timeout(600)  # three starts of a server and some hundred sessions, on machines that do other things too
def test_two_servers_move_a_version_on_once_and_take_a_worse_one_back(
    served_home: Path, database_url: str, engine: Engine, on_trial: int
) -> None:
    receiver = Receiver(failures=1)
    with receiver.listening() as hook:
        given = {"TRIMTAB_DATABASE_URL": database_url, "TRIMTAB_WEBHOOK_URL": hook, "TRIMTAB_WEBHOOK_SECRET": SECRET}
        with serving(served_home, **given, **QUICK) as one, serving(served_home, **given, **QUICK) as other:
            began = trimtab(
                served_home, "rollout", "canary", str(on_trial), "--reason", "try it", "--share", "0.2", **given
            )
            assert began.returncode == 0, began.stderr
            fleet = load_fleet(FLEET)
            query, right = fleet.routes[0].utterances[0], fleet.routes[0].name
            with httpx.Client(base_url=one.address) as a, httpx.Client(base_url=other.address) as b:

                def moved_on() -> bool:
                    by = {converse(c, query, right, judged=False) for c in (a, b)}
                    assert by <= {1, on_trial}
                    return ("canary", on_trial, 0.5) in kinds(engine)

                wait_for(moved_on, seconds=120)  # a look that takes long is followed by a longer rest
                for _ in range(60):
                    for http in (a, b):
                        converse(http, query, right, judged=True)
                    if any(kind == "auto_rollback" for kind, _, _ in kinds(engine)):
                        break
                wait_for(lambda: any(kind == "auto_rollback" for kind, _, _ in kinds(engine)), seconds=120)
                wait_for(lambda: {converse(c, query, right, judged=False) for c in (a, b) for _ in range(5)} == {1})
            found = kinds(engine)
            status = trimtab(served_home, "rollout", "status", "--json", **given)
            assert status.returncode == 5, status.stderr
            wait_for(lambda: "auto_rollback" in dict(receiver.events()), seconds=120)
    assert found.count(("canary", on_trial, 0.5)) == 1  # two servers looked, one moved it on
    assert [version for kind, version, _ in found if kind == "auto_rollback"] == [1]
    with engine.connect() as conn:
        assert read_version(conn, on_trial).status == "quarantined"
    for _, signature, body in receiver.seen:
        at, digest = (part.partition("=")[2] for part in signature.split(","))
        assert hmac.compare_digest(
            digest, hmac.new(SECRET.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
        )
    ids = [body["id"] for body, _, _ in receiver.seen]
    assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_a_webhook_that_hangs_or_is_away_delays_nothing(
    served_home: Path, database_url: str, engine: Engine, on_trial: int
) -> None:
    given = {"TRIMTAB_DATABASE_URL": database_url, "TRIMTAB_WEBHOOK_URL": "http://127.0.0.1:9/nobody"}
    with serving(served_home, **given) as server, httpx.Client(base_url=server.address) as http:
        done = trimtab(served_home, "activate", str(on_trial), "--reason", "go", **given)
        assert done.returncode == 0, done.stderr
        wait_for(lambda: converse(http, "hello there", "", judged=False) == on_trial, seconds=5)
        listed = wait_for(lambda: _tried(trimtab(served_home, "notifications", "--json", **given).stdout), seconds=30)
        assert "refused" in listed[0]["problem"].lower()
        began = time.monotonic()
        server.end(signal.SIGTERM)
        assert time.monotonic() - began < 12


def _tried(text: str) -> list[dict[str, Any]]:
    return [row for row in json.loads(text) if row["attempts"] and row["problem"]]


def test_golden_queries_by_command(
    served_home: Path, database_url: str, engine: Engine, on_trial: int, tmp_path: Path
) -> None:
    given = {"TRIMTAB_DATABASE_URL": database_url}
    route = load_fleet(FLEET).routes[0]

    def run(*arguments: str, code: int = 0) -> str:
        done = trimtab(served_home, "golden", *arguments, **given)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    run("add", route.utterances[0], "--route", route.name)
    file = tmp_path / "golden.jsonl"
    run("export", str(file))
    assert json.loads(file.read_text()) == {"query": route.utterances[0], "routes": [route.name]}
    file.write_text(file.read_text() + json.dumps({"query": route.utterances[1], "routes": [route.name]}) + "\n")
    assert "2 golden" in run("import", str(file))
    assert "2 of 2 golden queries go where they belong" in run("check")
    assert "0 of 2" in run("check", "--version", str(on_trial), code=1)
    assert "not in the fleet" in run("add", "hello", "--route", "nowhere", code=1)
    listed = json.loads(run("list", "--json"))
    run("remove", listed[0]["golden_id"])
    file.write_text("{}\n")
    assert "line 1" in run("import", str(file), code=1)
    assert len(json.loads(run("list", "--json"))) == 1


def test_pins_and_what_served_when_by_command(
    served_home: Path, database_url: str, engine: Engine, on_trial: int
) -> None:
    given = {"TRIMTAB_DATABASE_URL": database_url}

    def run(*arguments: str, code: int = 0) -> str:
        done = trimtab(served_home, *arguments, **given)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    assert "Version 1 since" in run("active")
    run("pin", "--reason", "audit")
    assert "pinned" in run("rollout", "canary", str(on_trial), "--reason", "x", code=1)
    assert "It is pinned by" in run("rollout", "status")
    assert "not in the fleet" in run("pin", "--route", "nowhere", "--reason", "x", code=1)
    assert "either" in run("pin", "--route", "billing", "--version", "1", "--reason", "x", code=2)
    run("unpin", "--reason", "done")
    run("rollout", "shadow", str(on_trial), "--reason", "x")
    assert "shadow" in run("rollout", "status", code=6)
    assert json.loads(run("active", "--json"))["beside"]["version"] == on_trial
    run("rollout", "promote", "--reason", "fine")
    now = json.loads(run("active", "--json"))
    assert (now["version"], now["beside"]["kind"]) == (on_trial, "holdout")
    with engine.connect() as conn:
        before = next(row for row in history(conn) if row.kind == "shadow").activated_at.isoformat()
    assert json.loads(run("active", "--at", before, "--json"))["version"] == 1
    assert "must look like" in run("active", "--at", "yesterday", code=2)
    assert "whole" in run("history", "--verify")


STATUS = "update router_version set status = '{}' where number = 2"
EMBEDDING = "update inference_payload set embedding = '\\x{}'"


@pytest.mark.parametrize(
    ("statement", "hurt", "heal", "error"),
    [(STATUS, "rejected", "canary", "RefusedVersion"), (EMBEDDING, "010203", "003c003c", "ValueError")],
    ids=["refused", "unexpected"],
)
def test_whatever_goes_wrong_in_a_look_is_told_and_the_trial_is_looked_at_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, statement: str, hurt: str, heal: str, error: str
) -> None:
    monkeypatch.setattr(rollouts, "LOOK_SECONDS", 0.02)  # after what went wrong the rest is twenty times as long
    with engine.begin() as conn:
        publish(conn, build_version(seed=1), parent=None, actor="a", reason="b")
        publish(conn, build_version(seed=2), parent=None, status="candidate", actor="a", reason="b")
        start_trial(conn, 2, mode="canary", share=0.05, actor="a", reason="b")
        store_inferences(conn, [asked_an_hour_ago("one session") for _ in range(2)])
        conn.execute(text(statement.format(hurt)))
    stop, settings = threading.Event(), RolloutSettings(stage_minutes=0, stage_sessions=0)
    looking = threading.Thread(target=rollouts.look_after_trials, args=(engine, settings, stop))
    with capture_logs() as logged:
        looking.start()
        try:
            wait_for(lambda: sum(line["event"] == "rollout_not_looked_at" for line in logged) >= 2, seconds=60)
            with engine.begin() as conn:
                conn.execute(text(statement.format(heal)))
            wait_for(lambda: ("publish", 2, 1.0) in kinds(engine), seconds=60)
        finally:
            stop.set()
            looking.join()
    assert {line["error"].partition(":")[0] for line in logged if "error" in line} == {error}


def asked_an_hour_ago(session: str) -> Inference:
    """A question that two versions would send to different routes."""
    decision = DecisionRecord(
        route="route-1",
        router_version=1,
        explored=False,
        shadow_version=2,
        shadow_route="route-2",
        shadow_agrees=False,
    )
    return Inference(
        inference_id=new_id(),
        source="route",
        session_id=session,
        decision=decision,
        payload=Payload(query="q", embedding=b"\0\x3c\0\x3c"),
        occurred_at=datetime.now(UTC) - timedelta(hours=1),
    )
