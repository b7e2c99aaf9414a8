"""Canaries for ``benchmarks.gate``: simulated sessions of both arms before the sequential tests that ship."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from api.demo.simulated_users import Habits, react
from benchmarks.feedback_world import Ints
from benchmarks.gate_candidates import Pool
from router.decide import Router, decide_many
from router.rollout import RolloutSettings
from router.sequential import Finding, Judged, find_worse, find_worse_anywhere
from router.version import RouterVersion

_SESSIONS = 40_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryRun:
    """Whether the tests called the canary worse, and after how many of its rated answers (all of them where not)."""

    worse: bool
    rated: int


def run_canary(
    pool: Pool, canary: RouterVersion, *, habits: Habits, rng: np.random.Generator, share: float, same: bool = False
) -> CanaryRun:
    """Let sessions come until the tests call the canary worse, or 40,000 have come.

    Args:
        pool: whose questions are asked; its incumbent is the other arm.
        canary: the newer version.
        habits: of the users.
        rng: the dice.
        share: of the sessions that the canary gets.
        same: the incumbent answers for both arms (A/A), where the canary would differ too.
    """
    X, settings = pool.X, RolloutSettings()
    before = decide_many(Router(pool.incumbent), X, explore=False).route
    after = decide_many(Router(canary), X, explore=False).route
    rows = rng.integers(len(X), size=_SESSIONS)
    arm = rng.random(_SESSIONS) < share
    answered = np.where(arm & (not same), after[rows], before[rows])
    good, again, rated = _react(pool, rows, answered, habits, rng)
    apart = before[rows] != after[rows]
    routes = pool.incumbent.parameters.routes
    touched = [frozenset({routes[b], routes[a]}) for b, a in zip(before[rows], after[rows], strict=True)]
    votes, asked = np.flatnonzero(rated), np.flatnonzero(apart)
    findings = [
        (_last(finding, votes), finding)
        for finding in find_worse_anywhere(
            _judged(good, arm, apart, touched, votes),
            routes=routes,
            margin=settings.most_loss,
            route_margin=settings.most_route_loss,
            alpha=settings.alpha * 2 / 3,
        )
    ]
    more = settings.most_more_reasks / max(float(apart.mean()), settings.most_more_reasks)
    reasks = find_worse(
        _judged(1 - again, arm, apart, touched, asked), name="asked again", margin=more, alpha=settings.alpha / 3
    )
    alarms = [at for at, finding in [*findings, (_last(reasks, asked), reasks)] if finding.worse]
    end = min(alarms, default=_SESSIONS)
    return CanaryRun(worse=bool(alarms), rated=int((rated & arm)[: end + 1].sum()))


def _react(
    pool: Pool, rows: Ints, answered: Ints, habits: Habits, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each answer was liked, asked for again, and rated at all, each (n,)."""
    routes = pool.incumbent.parameters.routes
    reactions = [
        react(habits, user="somebody", route=routes[a], right_route=routes[pool.label[row]], rng=rng)
        for row, a in zip(rows, answered, strict=True)
    ]
    return (
        np.array([r.thumb == "up" for r in reactions], dtype=np.float64),
        np.array([r.asks_again for r in reactions], dtype=np.float64),
        np.array([r.thumb is not None for r in reactions]),
    )


def _judged(
    value: np.ndarray, arm: np.ndarray, apart: np.ndarray, touched: Sequence[frozenset[str]], rows: Ints
) -> Judged:
    return Judged(value=value[rows], canary=arm[rows], apart=apart[rows], routes=[touched[row] for row in rows])


def _last(finding: Finding, rows: Ints) -> int:
    """The session that gave the alarm."""
    return _SESSIONS if finding.at is None else int(rows[finding.at])
