"""One look at a version on trial: take it back, move it on, or wait. Whoever serves looks; one at a time does."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, func, select

from router.activations import Activation, StaleActivation, lock_activations, newest_seq
from router.canary import Watched, watch_trial
from router.plan import Plan, read_plan
from router.rollout import RolloutSettings, end_hold_out, promote, start_trial, take_back
from router.sequential import Finding
from router.stored_versions import load

Step = Literal["took_back", "moved_on", "serves_all", "ended_hold_out", "waits"]
ACTOR = "rollout"
_TICK = int.from_bytes(b"rollout", "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look found and did; ``sentence`` says it for people."""

    step: Step
    sentence: str
    plan: Plan
    watched: Watched


def look(conn: Connection, settings: RolloutSettings) -> Look | None:
    """Look at the version on trial and act on what was found; the caller commits.

    Returns None where nothing is on trial, where another process is looking at this moment, or where something else
    was activated while it was looked at: what was found is about another plan then, and the next look begins anew.

    Raises:
        DamagedArtifact: one of the two versions cannot be loaded any more.
        RefusedVersion: the one that should serve was rejected or quarantined.
    """
    if not conn.execute(select(func.pg_try_advisory_xact_lock(_TICK))).scalar_one():
        return None
    seq = newest_seq(conn)  # before the plan: what comes between the two makes the plan stale too
    plan = read_plan(conn)
    if plan is None or plan.side is None:
        return None
    found = examine(conn, plan, settings)
    if found.step == "waits":
        return found
    try:
        lock_activations(conn, if_seq=seq)
    except StaleActivation:
        return None
    _act(conn, plan, found.step, found.sentence, settings)
    return found


def examine(conn: Connection, plan: Plan, settings: RolloutSettings) -> Look:
    """What the trial of ``plan`` has shown and what would be done now, without doing it.

    Raises:
        DamagedArtifact: one of the two versions cannot be loaded any more.
    """
    routes = set(load(conn, plan.newer).parameters.routes) | set(load(conn, plan.older).parameters.routes)
    watched = watch_trial(conn, plan, settings, routes=sorted(routes))
    now: datetime = conn.execute(select(func.clock_timestamp())).scalar_one()
    step, sentence = decide_step(plan, watched, settings, now=now)
    return Look(step=step, sentence=sentence, plan=plan, watched=watched)


def decide_step(plan: Plan, watched: Watched, settings: RolloutSettings, *, now: datetime) -> tuple[Step, str]:
    """What comes next and why, in a sentence. Pure."""
    side = plan.side
    if side is None:
        return "waits", "Nothing is on trial."
    if watched.worse is not None and plan.mode != "shadow":
        return "took_back", worse_sentence(plan.newer, watched.worse)
    age = now - side.activated_at
    if plan.mode == "shadow":
        apart = f"{watched.apart:.1%} of the questions would go elsewhere"
        return "waits", f"Version {plan.newer} is in shadow: {apart}. A person moves it on."
    if plan.mode == "holdout":
        if age >= timedelta(days=settings.holdout_days):
            return "ended_hold_out", f"{settings.holdout_days:g} days with version {plan.older} beside it are over."
        return "waits", f"Version {plan.newer} serves; {side.share:.0%} keep version {plan.older} to compare."
    return _stage(side, watched, settings, age=age)


def _stage(side: Activation, watched: Watched, settings: RolloutSettings, *, age: timedelta) -> tuple[Step, str]:
    soonest = timedelta(minutes=settings.stage_minutes)
    needed = settings.stage_sessions * side.share / settings.first_share  # a larger share must show more
    enough = watched.sessions >= needed or age >= timedelta(hours=settings.most_stage_hours)
    seen = f"{watched.sessions} sessions and {watched.queries} queries without a sign that it is worse"
    if age < soonest or not enough:
        return "waits", f"Version {side.version} serves {side.share:.0%} of the sessions: {seen}."
    step: Step = "moved_on" if side.share < settings.second_share else "serves_all"
    return step, f"Version {side.version} had {seen}."


def worse_sentence(version: int, found: Finding) -> str:
    """Why a version is taken back."""
    where = {"all": "liked less", "asked again": "asked again more often"}.get(found.name)
    what = where or (f"more {found.name}" if found.name.endswith(("errors", "answers")) else f"worse on {found.name}")
    return (
        f"Version {version} is worse ({what}): {100 * found.difference:+.0f} points where the two differ, after "
        f"{found.judged} judged sessions, {found.pairs} of them compared; K = {found.evidence:.0f}, "
        f"{found.needed:.0f} is needed."
    )


def _act(conn: Connection, plan: Plan, step: Step, sentence: str, settings: RolloutSettings) -> None:
    """Do it; ``plan`` is what holds, for the caller has the lock."""
    if step == "took_back":
        take_back(conn, actor=ACTOR, reason=sentence)
    elif step == "moved_on":
        start_trial(conn, plan.newer, mode="canary", share=settings.second_share, actor=ACTOR, reason=sentence)
    elif step == "serves_all":
        promote(conn, settings=settings, actor=ACTOR, reason=sentence)
    elif step == "ended_hold_out":
        end_hold_out(conn, actor=ACTOR, reason=sentence)
