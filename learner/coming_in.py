"""How what passed the gate comes to serve: at once, by canary, in shadow, or not yet because of what goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection

from learner.conditions import GateDecision
from router.activations import lock_activations
from router.plan import Plan, read_plan
from router.registry import PublishedVersion, publish
from router.rollout import RolloutSettings, hold_out, start_trial, way_in
from router.version import RouterVersion

AT_ONCE = RolloutSettings(mode="direct")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """``verdict`` as the night ends; ``hindered`` is why a version that passed is held all the same."""

    verdict: Literal["published", "canary", "shadow", "held"]
    passed: bool
    hindered: str | None = None

    @property
    def comes_in(self) -> bool:
        """Whether it serves, or is on trial."""
        return self.verdict != "held"

    def told(self, sentence: str) -> str:
        """The gate's sentence, with how the version comes in."""
        if self.hindered:
            return f"Held: {self.hindered}"
        begun = {"canary": "On trial by canary", "shadow": "On trial in shadow"}.get(self.verdict)
        return sentence if begun is None else sentence.replace("Published", begun, 1)


def decide_entry(
    conn: Connection,
    gate: GateDecision,
    *,
    parent: int,
    evidence: float,
    proven: bool,
    rollout: RolloutSettings,
) -> Entry:
    """Decide how the candidate comes in, and let nobody change what serves until the transaction ends.

    Args:
        conn: the caller commits.
        gate: its verdict.
        parent: the version that served when the night began; it was compared with that one.
        evidence: votes' worth of it where the two disagree.
        proven: whether the lower bound says that it is better.
        rollout: the settings.
    """
    lock_activations(conn)
    if gate.verdict != "published":
        return Entry(verdict="held", passed=False)
    if hindered := _hindered(read_plan(conn), parent):
        return Entry(verdict="held", passed=True, hindered=hindered)
    way = way_in(conn, rollout, evidence=evidence, proven=proven)
    return Entry(verdict="published" if way == "direct" else way, passed=True)


def _hindered(plan: Plan | None, parent: int) -> str | None:
    if plan is None:
        return None
    if plan.main.version != parent:
        return f"Version {plan.main.version} serves by now, and the candidate was compared with version {parent}."
    if plan.pinned:
        return f"Version {parent} is pinned by {plan.main.actor}; trimtab unpin ends that."
    if plan.mode in ("shadow", "canary"):
        return f"Version {plan.newer} is still on trial ({plan.mode}); trimtab rollout status says how it does."
    return None


def come_in(
    conn: Connection,
    version: RouterVersion,
    entry: Entry,
    *,
    rollout: RolloutSettings,
    actor: str,
    parent: int,
    report: Mapping[str, Any],
    watermark: datetime,
    window_start: datetime | None,
    fencing_token: int,
) -> PublishedVersion:
    """Register the version and do what ``entry`` says.

    Raises:
        LeaseLost, RefusedVersion, DamagedArtifact: as ``registry.publish``.
    """
    published = entry.verdict == "published"
    registered = publish(
        conn,
        version,
        actor=actor,
        reason=str(report["sentence"]),
        parent=parent,
        report=report,
        status="active" if published else "candidate" if entry.passed else "rejected",
        watermark=watermark,
        window_start=window_start,
        fencing_token=fencing_token,
    )
    if published and rollout.mode != "direct":
        hold_out(conn, parent, settings=rollout, actor=actor)
    elif entry.verdict in ("canary", "shadow"):
        started = start_trial(
            conn,
            registered.number,
            mode="canary" if entry.verdict == "canary" else "shadow",
            share=rollout.first_share,
            actor=actor,
            reason=str(report["sentence"]),
        )
        registered = replace(registered, activation=started)
    return registered
