"""A version comes in by stages: shadow, canary, all with a hold-out; and what a person pins. The caller commits."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from sqlalchemy import Connection, func, select

from router.activations import Activation, append_activation, lock_activations
from router.decide import UnknownRoute
from router.plan import Plan, pinned_routes, read_plan
from router.registry import (
    RefusedVersion,
    ServesAlready,
    activate,
    check_fit,
    quarantine_version,
    refuse_if_pinned,
    set_status,
)
from router.registry import rollback as roll_back
from router.stored_versions import load
from router.version import RouterVersion
from telemetry.tables import inference


def _setting(default: Any, explanation: str, *, most: float = math.inf) -> Any:
    return field(default=default, metadata={"explanation": explanation, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """How a version that the gate let through comes to serve, and when it is taken back."""

    mode: Literal["auto", "canary", "shadow", "direct"] = _setting(
        "auto",
        "auto: proven versions at once, others by canary; or canary, shadow (a person decides), direct (no hold-out)",
    )
    proven_evidence: float = _setting(50.0, "votes' worth of evidence from which a proven version serves at once")
    least_sessions: int = _setting(200, "sessions in the last day without which a canary could show nothing")
    first_share: float = _setting(0.05, "share of the sessions that a canary begins with", most=1)
    second_share: float = _setting(0.25, "share that it goes on with", most=1)
    stage_minutes: float = _setting(60.0, "minutes that each of the two stages takes at least")
    stage_sessions: int = _setting(50, "sessions that the canary must have had by the end of the first stage")
    most_stage_hours: float = _setting(9.0, "hours after which a stage ends with fewer sessions too")
    holdout_share: float = _setting(0.02, "share of the sessions that keep the old version afterwards; 0: none", most=1)
    holdout_days: float = _setting(7.0, "days that they keep it")
    alpha: float = _setting(0.05, "chance that a version as good as the old one is taken back by mistake", most=1)
    most_loss: float = _setting(
        0.005, "share of liked answers that a version may lose (about a point of accuracy)", most=1
    )
    most_route_loss: float = _setting(0.03, "the same within one route", most=1)
    most_more_reasks: float = _setting(0.0025, "share of questions asked again that it may add", most=1)
    most_more_errors: float = _setting(0.02, "share of failed answers that it may add", most=1)
    most_more_slow: float = _setting(0.1, "share of slow answers (over nine in ten of before) that it may add", most=1)
    most_more_dear: float = _setting(0.1, "share of dear answers (over nine in ten of before) that it may add", most=1)
    votes_per_user: int = _setting(3, "votes of one user that are heard during one rollout")

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            ValueError: in words, with the name of the setting.
        """
        for setting in fields(self):
            value, most = getattr(self, setting.name), setting.metadata["most"]
            if isinstance(value, int | float) and not 0 <= value <= most:
                words = "must not be negative" if most == math.inf else f"must be between 0 and {most:g}"
                raise ValueError(f"{setting.name} {words}")

    @classmethod
    def explanations(cls) -> dict[str, str]:
        """One line for each setting, by name."""
        return {setting.name: str(setting.metadata["explanation"]) for setting in fields(cls)}


class NothingOnTrial(Exception):
    """No second version is in shadow, canary or hold-out, so there is nothing to move on."""


def way_in(
    conn: Connection, settings: RolloutSettings, *, evidence: float, proven: bool
) -> Literal["direct", "canary", "shadow"]:
    """How a version that passed the gate comes in.

    Args:
        conn: to count the sessions of the last day.
        settings: ``mode`` auto asks the rest.
        evidence: votes' worth of it where the versions disagree.
        proven: whether even the lower bound says that it is better.
    """
    if settings.mode != "auto":
        return settings.mode
    if proven and evidence >= settings.proven_evidence:
        return "direct"
    day = inference.c.received_at > func.clock_timestamp() - func.make_interval(0, 0, 0, 1)
    sessions = func.count(func.distinct(inference.c.session_id))
    asked = conn.execute(select(sessions).where(day, inference.c.router_version.is_not(None))).scalar_one()
    return "canary" if asked >= settings.least_sessions else "direct"


def start_trial(
    conn: Connection,
    number: int,
    *,
    mode: Literal["shadow", "canary"],
    share: float,
    actor: str,
    reason: str,
    if_seq: int | None = None,
) -> Activation:
    """Let a version decide beside the serving one (shadow), or for ``share`` of the sessions (canary).

    Another version that was tried is put back; the same one goes from one share to the next.

    Raises:
        ServesAlready: it is the one that serves.
        RefusedVersion: it was rejected or quarantined, or is for another encoder.
        Pinned: a person pinned what serves.
        UnknownVersion, DamagedArtifact, StaleActivation: as ``registry.activate``.
    """
    lock_activations(conn, if_seq=if_seq)
    refuse_if_pinned(conn)
    plan = read_plan(conn)
    check_fit(conn, number)
    if plan is None:
        raise RefusedVersion(number, "the first, so it is activated instead: no other serves yet")
    if plan.main.version == number:
        raise ServesAlready(number, "active")
    if mode == "canary":
        _same_encoder(conn, plan, number)
    if plan.mode in ("shadow", "canary") and plan.newer != number:
        set_status(conn, plan.newer, "candidate")
    set_status(conn, number, mode)
    return append_activation(
        conn, number, kind=mode, actor=actor, reason=reason, share=0.0 if mode == "shadow" else share
    )


def _same_encoder(conn: Connection, plan: Plan, number: int) -> None:
    """Two encoders in one conversation would mix: a version for another one serves nobody or all."""
    if check_fit(conn, plan.main.version).encoder != check_fit(conn, number).encoder:
        raise RefusedVersion(number, "for another encoder, so it can be in shadow or serve all, but not some")


def promote(conn: Connection, *, settings: RolloutSettings, actor: str, reason: str) -> Activation:
    """Let the version on trial serve all but the hold-out, which keeps the old one.

    Raises:
        NothingOnTrial: there is none in shadow or canary.
        RefusedVersion, DamagedArtifact, NotShadowed: as ``registry.activate``.
    """
    lock_activations(conn)
    plan = read_plan(conn)
    if plan is None or plan.mode not in ("shadow", "canary"):
        raise NothingOnTrial(NothingOnTrial.__doc__)
    done = activate(conn, plan.newer, kind="publish", actor=actor, reason=reason)
    hold_out(conn, plan.main.version, settings=settings, actor=actor)
    return done


def hold_out(conn: Connection, older: int, *, settings: RolloutSettings, actor: str) -> Activation | None:
    """Let the older version go on for the hold-out's share; None where there is to be none or it is not sound."""
    plan = read_plan(conn)
    if settings.holdout_share <= 0 or plan is None or plan.main.version == older:
        return None
    if check_fit(conn, older).encoder != check_fit(conn, plan.main.version).encoder:
        return None
    reason = f"keeps the old version for {settings.holdout_days:g} days, to compare"
    return append_activation(conn, older, kind="holdout", actor=actor, reason=reason, share=settings.holdout_share)


def end_hold_out(conn: Connection, *, actor: str, reason: str) -> Activation:
    """Let all sessions have the version that serves.

    Raises:
        NothingOnTrial: there is no hold-out.
    """
    lock_activations(conn)
    plan = read_plan(conn)
    if plan is None or plan.mode != "holdout":
        raise NothingOnTrial(NothingOnTrial.__doc__)
    return append_activation(conn, plan.older, kind="holdout", actor=actor, reason=reason, share=0.0)


def take_back(conn: Connection, *, actor: str, reason: str) -> Activation:
    """Return to the older version and quarantine the newer one, because it was found worse.

    Raises:
        NothingOnTrial: nothing is compared.
        Pinned: a person pinned what serves.
    """
    lock_activations(conn)
    refuse_if_pinned(conn)
    plan = read_plan(conn)
    if plan is None or plan.side is None:
        raise NothingOnTrial(NothingOnTrial.__doc__)
    done = roll_back(conn, to=plan.older, actor=actor, reason=reason, kind="auto_rollback")
    quarantine_version(conn, plan.newer)
    return done


def pin(conn: Connection, *, version: int | None, route: str | None, actor: str, reason: str) -> Activation:
    """Pin a version (it serves all, and nothing automatic changes that) or a route (nights leave its centroids).

    Raises:
        UnknownVersion, RefusedVersion, DamagedArtifact, NotShadowed: as ``registry.activate``.
        NothingOnTrial: nothing serves yet.
        UnknownRoute: the fleet that serves has no such route.
    """
    lock_activations(conn)
    plan = read_plan(conn)
    if route is None and version is not None:
        return activate(conn, version, kind="pin", actor=actor, reason=reason)
    if plan is None:
        raise NothingOnTrial(NothingOnTrial.__doc__)
    if route is None:
        return activate(conn, plan.main.version, kind="pin", actor=actor, reason=reason)
    if route not in load(conn, plan.main.version).parameters.routes:
        raise UnknownRoute(route)
    return append_activation(conn, plan.main.version, kind="pin", actor=actor, reason=reason, route=route)


class NotPinned(Exception):
    """There is no such pin; trimtab rollout shows what is pinned."""


def unpin(conn: Connection, *, route: str | None, actor: str, reason: str) -> Activation:
    """End the pin of the version, or of a route.

    Raises:
        NotPinned: there is none.
    """
    lock_activations(conn)
    plan = read_plan(conn)
    if plan is None or (route not in pinned_routes(conn) if route is not None else not plan.pinned):
        raise NotPinned(NotPinned.__doc__)
    return append_activation(conn, plan.main.version, kind="unpin", actor=actor, reason=reason, route=route)


def pinned_positions(conn: Connection, version: RouterVersion) -> list[int]:
    """Positions, in this version, of the routes that are pinned."""
    pinned = pinned_routes(conn)
    return [position for position, route in enumerate(version.parameters.routes) if route in pinned]
