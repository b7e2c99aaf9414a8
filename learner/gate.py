"""Publish or hold: a pure function of the evaluation, with every reason in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from learner.comparison import Difference
from learner.evaluation import Evaluation, GoldenComparison
from learner.settings import LearnerSettings
from learner.splitter_night import NightSplitter

_SPLITTER_GAIN = 0.01

Verdict = Literal["published", "held"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition: passed or not, its figure against its threshold, on how much evidence, in a sentence."""

    name: str
    passed: bool
    figure: float
    threshold: float
    n: int
    bound: float | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """The verdict, each condition, and for a hold what is missing."""

    verdict: Verdict
    conditions: tuple[Condition, ...]
    missing: tuple[str, ...]


def decide_gate(evaluation: Evaluation, settings: LearnerSettings) -> GateDecision:
    """Publish iff every condition holds. No clock, no database, no randomness."""
    overall = evaluation.overall
    conditions = [
        _not_worse(overall, settings),
        _better(evaluation),
        _enough_evidence(overall, settings),
        *_routes(evaluation, settings),
        _examples(evaluation),
        _no_collapse(evaluation, settings),
        *([] if evaluation.of_models else [_dearer_cost(evaluation, settings)]),
        _no_dearer("latency", evaluation.latency_ms, evaluation.latency_ms_before, overall.n, settings),
    ]
    if evaluation.splitter_f1 is not None and evaluation.splitter_f1_before is not None:
        conditions.append(_splitter(evaluation.splitter_f1, evaluation.splitter_f1_before))
    if evaluation.golden is not None:
        conditions.append(_golden(evaluation.golden))
    return _decided(conditions)


def decide_splitter_gate(splitter: NightSplitter, settings: LearnerSettings) -> GateDecision:
    """Publish a splitter by itself, all else being left as it serves: pure, like ``decide_gate``."""
    now, before = splitter.production_f1 or 0.0, splitter.production_f1_before or 0.0
    better = Condition(
        name="splitter_better",
        passed=now >= before + _SPLITTER_GAIN,
        figure=now,
        threshold=before + _SPLITTER_GAIN,
        n=splitter.mined,
        bound=None,
        sentence=(
            f"The splitter's F1 on held-out queries put as users put them is {now:.3f}; it was {before:.3f}, and"
            f" {_SPLITTER_GAIN:+.2f} is needed ({splitter.mined} were split wrongly)."
        ),
    )
    heard = Condition(
        name="splitter_people",
        passed=splitter.people >= settings.flip_users,
        figure=float(splitter.people),
        threshold=float(settings.flip_users),
        n=splitter.mined,
        bound=None,
        sentence=f"{splitter.people} different people stand behind that; {settings.flip_users} are needed.",
    )
    return _decided([_splitter(splitter.f1 or 0.0, splitter.f1_before or 0.0), better, heard])


def _decided(conditions: Sequence[Condition]) -> GateDecision:
    passed = all(condition.passed for condition in conditions)
    return GateDecision(
        verdict="published" if passed else "held",
        conditions=tuple(conditions),
        missing=tuple(c.sentence for c in conditions if not c.passed),
    )


def _points(value: float) -> str:
    return "unknown" if abs(value) == float("inf") else f"{value:+.1f} points"


def _not_worse(overall: Difference, settings: LearnerSettings) -> Condition:
    floor = -settings.most_loss_points
    return Condition(
        name="not_worse",
        passed=overall.low >= floor,
        figure=overall.estimate,
        threshold=floor,
        n=overall.n,
        bound=overall.low,
        sentence=(
            f"Accuracy changes by {_points(overall.estimate)} (n = {overall.n}, evidence worth {overall.evidence:.0f}"
            f" votes), at {settings.gate_level:.0%} confidence by at least {_points(overall.low)};"
            f" {floor:+.1f} is needed."
        ),
    )


def _better(evaluation: Evaluation) -> Condition:
    overall = evaluation.overall
    golden = evaluation.golden
    gained = evaluation.examples_right > evaluation.examples_right_before
    gained |= golden is not None and golden.right > golden.right_before
    return Condition(
        name="better",
        passed=overall.estimate > 0 or gained,
        figure=overall.estimate,
        threshold=0.0,
        n=overall.n,
        bound=None,
        sentence=f"The estimate {_points(overall.estimate)} must be above zero, or examples or golden queries gain.",
    )


def _enough_evidence(overall: Difference, settings: LearnerSettings) -> Condition:
    missing = max(0.0, settings.least_evidence - overall.evidence)
    rate = overall.evidence / max(overall.n * overall.disagreement, 1)
    more = f"; about {missing / max(rate * overall.disagreement, 1e-3):.0f} more requests are needed" if missing else ""
    return Condition(
        name="enough_evidence",
        passed=missing == 0,
        figure=overall.evidence,
        threshold=settings.least_evidence,
        n=overall.n,
        bound=None,
        sentence=(
            f"{overall.disagreement:.1%} of the queries would go elsewhere; what is known of them is worth "
            f"{overall.evidence:.0f} votes, {settings.least_evidence:.0f} are needed{more}."
        ),
    )


def _routes(evaluation: Evaluation, settings: LearnerSettings) -> list[Condition]:
    """Routes with enough evidence must not be demonstrably worse by ``most_route_loss_points``."""
    tested = {r: d for r, d in evaluation.per_route.items() if d.evidence >= settings.least_route_evidence}
    floor = -settings.most_route_loss_points
    return [
        Condition(
            name=f"route:{route}",
            passed=not (d.estimate < floor and d.high < 0),
            figure=d.estimate,
            threshold=floor,
            n=d.n,
            bound=d.high,
            sentence=f"Questions of `{route}` change by {_points(d.estimate)} (n = {d.n}); {floor:+.1f} is the least.",
        )
        for route, d in tested.items()
    ]


def _examples(evaluation: Evaluation) -> Condition:
    now, before = evaluation.examples_right, evaluation.examples_right_before
    return Condition(
        name="examples",
        passed=now >= min(before, 1.0) - 0.02,
        figure=now,
        threshold=before - 0.02,
        n=0,
        bound=None,
        sentence=f"{now:.1%} of the fleet's own examples go to their route; it was {before:.1%}.",
    )


def _no_collapse(evaluation: Evaluation, settings: LearnerSettings) -> Condition:
    limit = max(settings.largest_share, evaluation.largest_share_before + 0.1)
    best = evaluation.of_models and evaluation.overall.low > 0  # one model may be the best for nearly everything
    return Condition(
        name="no_collapse",
        passed=evaluation.largest_share <= limit or best,
        figure=evaluation.largest_share,
        threshold=limit,
        n=evaluation.overall.n,
        bound=None,
        sentence=f"The busiest route gets {evaluation.largest_share:.0%} of the queries; at most {limit:.0%} is taken.",
    )


def _dearer_cost(evaluation: Evaluation, settings: LearnerSettings) -> Condition:
    """In a fleet of models the operator's ``cost_weight`` says what pleasing may cost; it is part of the difference."""
    return _no_dearer("cost", evaluation.cost, evaluation.cost_before, evaluation.overall.n, settings)


def _no_dearer(name: str, now: float, before: float, n: int, settings: LearnerSettings) -> Condition:
    limit = before * (1 + settings.most_dearer)
    change = (now / before - 1) if before > 0 else 0.0
    return Condition(
        name=name,
        passed=now <= limit + 1e-12,
        figure=change,
        threshold=settings.most_dearer,
        n=n,
        bound=None,
        sentence=f"Expected {name} changes by {change:+.1%}; at most {settings.most_dearer:+.0%} is taken.",
    )


def _splitter(now: float, before: float) -> Condition:
    return Condition(
        name="splitter",
        passed=now >= before,
        figure=now,
        threshold=before,
        n=0,
        bound=None,
        sentence=f"The splitter's F1 on held-out questions is {now:.3f}; it was {before:.3f}.",
    )


def _golden(golden: GoldenComparison) -> Condition:
    """No golden query that goes where it belongs may go elsewhere, whatever is gained for it."""
    broken = "".join(f" No more right: {text[:80]!r}." for text in golden.broken[:3])
    return Condition(
        name="golden",
        passed=not golden.broken,
        figure=golden.right / golden.n,
        threshold=golden.right_before / golden.n,
        n=golden.n,
        bound=None,
        sentence=f"{golden.right} of {golden.n} golden queries are right; {golden.right_before} were.{broken}",
    )
