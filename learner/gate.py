"""Publish or hold: a pure function of the evaluation, with every reason in words."""

import math

from learner.comparison import Difference
from learner.conditions import Condition, GateDecision, decided
from learner.evaluation import Evaluation, GoldenComparison
from learner.settings import LearnerSettings

# Votes' worth of evidence under which nothing is known.
_NOTHING = 0.05


def decide_gate(evaluation: Evaluation, settings: LearnerSettings) -> GateDecision:
    """Publish iff every condition holds. No clock, no database, no randomness."""
    overall = evaluation.overall
    conditions = [
        *(_kept(route, d, settings) for route, d in evaluation.kept.items()),
        _not_worse(overall, settings),
        _better(evaluation),
        _enough_evidence(overall, settings),
        *_routes(evaluation, settings),
        _examples(evaluation),
        _no_collapse(evaluation, settings),
        *([] if evaluation.of_models else [_dearer_cost(evaluation, settings)]),
        _no_dearer("latency", evaluation.latency_ms, evaluation.latency_ms_before, overall.n, settings),
        *evaluation.splitter,
    ]
    if evaluation.golden is not None:
        conditions.append(_golden(evaluation.golden))
    return decided(conditions)


def _points(value: float) -> str:
    return "unknown" if math.isinf(value) else f"{value:+.1f} points"


def _not_worse(overall: Difference, settings: LearnerSettings) -> Condition:
    floor = -settings.most_loss_points
    passed = overall.low >= floor
    return Condition(
        name="not_worse",
        passed=passed,
        figure=overall.estimate,
        threshold=floor,
        n=overall.n,
        bound=overall.low,
        sentence=(
            f"Accuracy changes by {_points(overall.estimate)} (n = {overall.n}, evidence worth {overall.evidence:.0f}"
            f" votes), at {settings.gate_level:.0%} confidence by at least {_points(overall.low)};"
            f" {floor:+.1f} is needed{'' if passed else _until_sure(overall, floor)}."
        ),
    )


def _until_sure(d: Difference, floor: float) -> str:
    """What is missing until the bound clears the floor: it comes nearer with the square root of the evidence."""
    if d.estimate <= floor or not math.isfinite(d.low) or d.evidence <= 0:
        return ", and more of the same evidence would not change that"
    votes = d.evidence * (((d.estimate - d.low) / (d.estimate - floor)) ** 2 - 1)
    return f"; it needs about {_requests(votes, d)} more rated requests"


def _requests(votes: float, d: Difference) -> str:
    """Rated requests that bring so many votes on questions that would go elsewhere, rounded to two digits."""
    count = votes / max(d.disagreement, 0.01)
    size = 10.0 ** max(0, math.floor(math.log10(max(count, 1))) - 1)
    return f"{math.ceil(count / size) * size:.0f}"


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
    """What changes a percent of the queries can lose a point at worst, and needs a part of the evidence only."""
    part = min(overall.disagreement / settings.large_change, 1.0) if settings.large_change else 1.0
    needed = settings.least_evidence * part
    missing = max(0.0, needed - overall.evidence)
    more = f"; it needs about {_requests(missing, overall)} more rated requests" if missing else ""
    return Condition(
        name="enough_evidence",
        passed=missing == 0,
        figure=overall.evidence,
        threshold=needed,
        n=overall.n,
        bound=None,
        sentence=(
            f"{overall.disagreement:.1%} of the queries would go elsewhere; what is known of them is worth "
            f"{_votes(overall.evidence)} votes, {_votes(needed)} are needed{more}."
        ),
    )


def _votes(worth: float) -> str:
    return f"{worth:.0f}" if worth >= 10 else f"{worth:.1f}"


def _harmed(d: Difference, settings: LearnerSettings) -> bool:
    """Whether a route is demonstrably worse: by ``most_route_loss_points``, and certainly not better."""
    return d.estimate < -settings.most_route_loss_points and d.high < 0


def _unknown(d: Difference, overall: Difference, settings: LearnerSettings) -> bool:
    """Whether too little is known of a route for the points of all traffic that its change could lose."""
    possible = -d.low * d.n / max(overall.n, 1)
    return d.evidence < settings.least_route_evidence and possible > settings.most_loss_points


def doubtful_routes(evaluation: Evaluation, settings: LearnerSettings) -> tuple[str, ...]:
    """Routes that had better keep the incumbent's centroids: worse as it seems, or without evidence.

    None in a fleet of models, where any route may please and no centroid is one route's own.
    """

    def doubtful(d: Difference) -> bool:
        unheard = d.disagreement > 0 and d.evidence < _NOTHING
        return unheard or _harmed(d, settings) or _unknown(d, evaluation.overall, settings)

    if evaluation.of_models:
        return ()
    return tuple(route for route, d in evaluation.per_route.items() if doubtful(d))


def _routes(evaluation: Evaluation, settings: LearnerSettings) -> list[Condition]:
    """No route that changes may be demonstrably worse, nor may a large one change on hardly any evidence."""
    floor = -settings.most_route_loss_points
    return [
        Condition(
            name=f"route:{route}",
            passed=not _fails(route, d, evaluation, settings),
            figure=d.estimate,
            threshold=floor,
            n=d.n,
            bound=d.high,
            sentence=_route_sentence(route, d, settings, failed=_fails(route, d, evaluation, settings)),
        )
        for route, d in evaluation.per_route.items()
        if d.disagreement > 0
    ]


def _fails(route: str, d: Difference, evaluation: Evaluation, settings: LearnerSettings) -> bool:
    """A large route must not change on hardly any evidence, unless it is kept as it was as far as that goes."""
    if d.evidence < settings.least_route_evidence:
        left = route in evaluation.kept or evaluation.of_models
        return not left and _unknown(d, evaluation.overall, settings)
    return _harmed(d, settings)


def _route_sentence(route: str, d: Difference, settings: LearnerSettings, *, failed: bool) -> str:
    found = (
        f"Questions of `{route}` change by {_points(d.estimate)} (n = {d.n}, evidence worth {d.evidence:.0f} votes),"
        f" between {_points(d.low)} and {_points(d.high)}"
    )
    if failed and d.evidence >= settings.least_route_evidence:
        return f"{found}; {-settings.most_route_loss_points:+.1f} is the least that is taken."
    if failed:
        missing = settings.least_route_evidence - d.evidence
        return f"{found}; it needs about {_requests(missing, d)} more rated requests on `{route}`."
    return f"{found}."


def _kept(route: str, d: Difference, settings: LearnerSettings) -> Condition:
    """For the record: a route that goes on as before, with what the candidate would have done to it."""
    missing = max(settings.least_route_evidence - d.evidence, 0.0)
    why = "it would be worse" if _harmed(d, settings) else "too little is known"
    more = "" if _harmed(d, settings) else f"; it needs about {_requests(missing, d)} more rated requests on `{route}`"
    return Condition(
        name=f"kept:{route}",
        passed=True,
        figure=d.estimate,
        threshold=-settings.most_route_loss_points,
        n=d.n,
        bound=d.low,
        sentence=(
            f"`{route}` keeps the incumbent's centroids, {why}: {_points(d.estimate)} (n = {d.n}, evidence worth"
            f" {d.evidence:.0f} votes), at least {_points(d.low)}{more}."
        ),
    )


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
    limit = min(max(settings.largest_share, evaluation.largest_share_before + 0.1), 1.0)
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
