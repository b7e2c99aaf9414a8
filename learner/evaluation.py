"""Everything that the gate looks at: accuracy overall and by route, examples, cost, latency, mix of routes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from learner.comparison import Comparison, Difference, choices_on_log, difference
from learner.conditions import Condition
from learner.estimators import Floats
from learner.settings import LearnerSettings
from learner.window import Window
from router.decide import Router, decide_many
from router.golden import GoldenEncoder, check_golden
from router.version import RouterVersion
from telemetry.golden import GoldenQuery

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenComparison:
    """Of ``n`` golden queries, how many are right now and were before; ``broken`` are right no more, as texts."""

    n: int
    right: int
    right_before: int
    broken: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that the gate looks at. Shares are 0..1; cost is US dollars a query, latency milliseconds.

    ``of_models``: differences are in points of utility, price included. ``kept`` are the routes that keep the
    incumbent's centroids, with what the candidate would have done to them; ``splitter`` says what became of a new one.
    """

    overall: Difference
    per_route: dict[str, Difference]
    examples_right: float
    examples_right_before: float
    largest_share: float
    largest_share_before: float
    cost: float
    cost_before: float
    latency_ms: float
    latency_ms_before: float
    splitter: tuple[Condition, ...] = ()
    golden: GoldenComparison | None = None
    of_models: bool = False
    kept: Mapping[str, Difference] = field(default_factory=dict)


def evaluate(
    window: Window,
    incumbent: RouterVersion,
    candidate: RouterVersion,
    comparison: Comparison,
    *,
    examples: tuple[npt.NDArray[np.float32], Ints],
    settings: LearnerSettings,
) -> Evaluation:
    """Gather what the gate looks at. ``examples`` are the operator's: embeddings (S, D) and routes (S,)."""
    old, new = (choices_on_log(version, window).route for version in (incumbent, candidate))
    lengths = window.units["text"].fillna("").str.len().to_numpy()
    cost, cost_before = _means(candidate, candidate.parameters.cost, new, old, lengths)
    latency, latency_before = _means(candidate, candidate.parameters.latency_ms, new, old, lengths)
    return Evaluation(
        overall=difference(comparison, rows=np.ones(len(comparison.before), bool), settings=settings),
        per_route=_per_route(comparison, incumbent.parameters.routes, settings=settings),
        examples_right=_right(candidate, *examples),
        examples_right_before=_right(incumbent, *examples),
        largest_share=_largest_share(new),
        largest_share_before=_largest_share(old),
        cost=cost,
        cost_before=cost_before,
        latency_ms=latency,
        latency_ms_before=latency_before,
    )


def compare_golden(
    incumbent: RouterVersion, candidate: RouterVersion, queries: Sequence[GoldenQuery], *, encoder: GoldenEncoder
) -> GoldenComparison | None:
    """Decide the golden queries by both versions; None where there are none whose routes are in the fleet."""
    before, after = (check_golden(version, queries, encoder=encoder) for version in (incumbent, candidate))
    known = [(old, new) for old, new in zip(before, after, strict=True) if new.right is not None]
    if not known:
        return None
    return GoldenComparison(
        n=len(known),
        right=sum(bool(new.right) for _, new in known),
        right_before=sum(bool(old.right) for old, _ in known),
        broken=tuple(new.query for old, new in known if old.right and not new.right),
    )


def _per_route(comparison: Comparison, routes: tuple[str, ...], *, settings: LearnerSettings) -> dict[str, Difference]:
    """The difference over the questions that either version sends to a route."""
    rows = {route: (comparison.before == i) | (comparison.after == i) for i, route in enumerate(routes)}
    return {route: difference(comparison, rows=r, settings=settings) for route, r in rows.items() if r.any()}


def _right(version: RouterVersion, X: npt.NDArray[np.float32], route: Ints) -> float:
    if len(X) == 0:
        return 1.0
    return float(np.mean(decide_many(Router(version), X, explore=False).route == route))


def _largest_share(route: Ints) -> float:
    return float(np.bincount(route).max() / len(route)) if len(route) else 0.0


def _means(
    version: RouterVersion, table: tuple[tuple[float, ...], ...], new: Ints, old: Ints, lengths: Ints
) -> tuple[float, float]:
    """Means by the table of routes and length bins over the questions where both choices are known, i.e. not zero."""
    values: Floats = np.array(table, dtype=np.float64)
    bins = np.minimum(np.digitize(lengths, version.parameters.length_bins), values.shape[1] - 1)
    now, before = values[new, bins], values[old, bins]
    known = (now > 0) & (before > 0)
    return (float(now[known].mean()), float(before[known].mean())) if known.any() else (0.0, 0.0)
