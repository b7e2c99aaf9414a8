"""Whether a new splitter is taken, and whether it is published by itself: pure functions of how it was judged."""

from collections.abc import Sequence

import numpy as np

from learner.conditions import Condition, GateDecision, decided
from learner.settings import LearnerSettings
from learner.splitter_judge import HEARD, MINED, SINGLE, Judged

_GAIN = 0.01
_SHARE_SINGLE = 0.5
_ROUNDING = 1e-9


def splitter_conditions(judged: Sequence[Judged], settings: LearnerSettings) -> tuple[Condition, ...]:
    """A new splitter must lose on no kind of query more than chance explains, and gain over all kinds.

    Args:
        judged: how it and the one before fare, by kind of query.
        settings: ``most_split_loss_points`` of the queries of a kind may be cut worse, half as many routed worse; or
            one standard deviation of what chance makes of so few, sqrt(changed) / n.
    """
    return (*(_no_loss(one, settings) for one in judged), _gain(judged))


def decide_splitter_gate(
    judged: Sequence[Judged], *, mined: int, people: int, settings: LearnerSettings
) -> GateDecision:
    """Publish a splitter by itself, all else being left as it serves.

    Beside what every new splitter needs, queries put as users put them must be cut better, and ``people`` different
    ones must stand behind the ``mined`` ones.
    """
    as_users_say = [one for one in judged if one.kind in (MINED, HEARD)]
    now, before = (_mean([getattr(one, figure) for one in as_users_say]) for figure in ("cut", "cut_before"))
    better = Condition(
        name="splitter_better",
        passed=now >= before + _GAIN,
        figure=now,
        threshold=before + _GAIN,
        n=mined,
        bound=None,
        sentence=(
            f"{now:.1%} of the held-out queries put as users put them are cut right; {before:.1%} were, and"
            f" {100 * _GAIN:+.0f} point is needed ({mined} were split wrongly)."
        ),
    )
    heard = Condition(
        name="splitter_people",
        passed=people >= settings.flip_users,
        figure=float(people),
        threshold=float(settings.flip_users),
        n=mined,
        bound=None,
        sentence=f"{people} different people stand behind that; {settings.flip_users} are needed.",
    )
    return decided([*splitter_conditions(judged, settings), better, heard])


def splitter_kept(conditions: Sequence[Condition]) -> Condition:
    """For the record: the splitter stays as it was, and the first reason why."""
    reason = next(condition for condition in conditions if not condition.passed)
    why = f"The splitter stays as it was. {reason.sentence}"
    return Condition(
        name="splitter_kept",
        passed=True,
        figure=reason.figure,
        threshold=reason.threshold,
        n=reason.n,
        bound=None,
        sentence=why,
    )


def _no_loss(one: Judged, settings: LearnerSettings) -> Condition:
    points = settings.most_split_loss_points / 100
    most = max(points, one.cut_changed**0.5 / one.n) + _ROUNDING
    most_routes = max(points / 2, one.routes_changed**0.5 / one.n) + _ROUNDING
    return Condition(
        name=f"splitter:{one.kind}",
        passed=one.cut >= one.cut_before - most and one.routes >= one.routes_before - most_routes,
        figure=one.cut,
        threshold=one.cut_before - most,
        n=one.n,
        bound=None,
        sentence=(
            f"Of {one.n} queries ({one.kind}) {one.cut:.1%} are cut right, {one.cut_before:.1%} were; {one.routes:.1%}"
            f" reach the right routes, {one.routes_before:.1%} did. At most {-100 * most:+.1f} and"
            f" {-100 * most_routes:+.1f} points are taken."
        ),
    )


def _gain(judged: Sequence[Judged]) -> Condition:
    """Over all kinds, single questions counting as much as all others, for half of what is asked is one thing."""
    now, before = (_over_all(judged, figure) for figure in ("routes", "routes_before"))
    cuts, cuts_before = (_over_all(judged, figure) for figure in ("cut", "cut_before"))
    return Condition(
        name="splitter",
        passed=(now, cuts) > (before, cuts_before),
        figure=now,
        threshold=before,
        n=sum(one.n for one in judged),
        bound=None,
        sentence=f"Over all kinds of queries {now:.1%} reach the right routes by the new splitter; {before:.1%} did.",
    )


def _over_all(judged: Sequence[Judged], figure: str) -> float:
    single = [getattr(one, figure) for one in judged if one.kind == SINGLE]
    others = [getattr(one, figure) for one in judged if one.kind != SINGLE]
    if not single or not others:
        return _mean(single or others)
    return _SHARE_SINGLE * _mean(single) + (1 - _SHARE_SINGLE) * _mean(others)


def _mean(figures: Sequence[float]) -> float:
    return float(np.mean(figures)) if figures else 0.0
