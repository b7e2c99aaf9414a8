"""Beside the server: look at the version on trial every few seconds, in whichever process is first."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from api.lists import json_value
from api.settings import Settings
from api.webhook import keep_delivering
from router.advance import examine, look
from router.plan import pinned_routes, read_plan
from router.rollout import RolloutSettings
from telemetry.database import create_engine

LOOK_SECONDS = 2.0
_PATIENCE_SECONDS = 2.0
_REST = 20.0  # times as long as the look took, so that a week of a busy fleet costs a twentieth of a core at most


@contextlib.contextmanager
def looked_after(settings: Settings, url: str) -> Iterator[None]:
    """Look after trials and tell the webhook, each in a thread of its own, for as long as the server runs."""
    engine, stop = create_engine(url, pool_size=2), threading.Event()
    secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
    told = {"secret": secret, "stop": stop}
    threads = [
        threading.Thread(target=look_after_trials, args=(engine, settings.rollout, stop), name="rollouts", daemon=True),
        threading.Thread(
            target=keep_delivering, args=(engine, settings.webhook_url), kwargs=told, name="webhook", daemon=True
        ),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(_PATIENCE_SECONDS)  # a receiver that does not answer holds nobody up
        engine.dispose()


def look_after_trials(engine: Engine, settings: RolloutSettings, stop: threading.Event) -> None:
    """Take back, move on or wait, until told to stop, whatever goes wrong in between.

    A look that takes long is followed by a longer rest.
    """
    log = structlog.get_logger()
    rest = LOOK_SECONDS
    while not stop.wait(rest):
        began = time.monotonic()
        try:
            with engine.begin() as conn:
                found = look(conn, settings)
            if found is not None and found.step != "waits":
                log.warning("rollout", step=found.step, version=found.plan.newer, detail=found.sentence)
        except Exception as error:  # noqa: BLE001  # where a look ends: without the next one nothing is taken back
            log.error("rollout_not_looked_at", error=f"{type(error).__name__}: {error}"[:500])
            began -= LOOK_SECONDS  # what cannot be looked at is tried again in a while, not in every log line
        rest = max(LOOK_SECONDS, _REST * (time.monotonic() - began))


def rollout_json(conn: Connection, settings: RolloutSettings) -> dict[str, Any]:
    """Return what serves, what is on trial and what it has shown, and what is pinned."""
    plan = read_plan(conn)
    shown: dict[str, Any] = {"serves": None, "mode": None, "trial": None, "sentence": "Nothing serves yet."}
    if plan is not None:
        shown |= {"serves": plan.main.version, "mode": plan.mode, "sentence": "Nothing is on trial."}
        shown["pinned"] = json_value(plan.main) if plan.pinned else None
    if plan is not None and plan.side is not None:
        found = examine(conn, plan, settings)
        shown["trial"] = {
            "version": plan.newer,
            "against": plan.older,
            "share": plan.side.share,
            "since": plan.side.activated_at,
            "began": plan.began,
            "next": found.step,
            "sessions": found.watched.sessions,
            "queries": found.watched.queries,
            "apart": found.watched.apart,
            "findings": found.watched.findings,
        }
        shown["sentence"] = found.sentence
    shown["pinned_routes"] = pinned_routes(conn)
    result: dict[str, Any] = json_value(shown)
    return result
