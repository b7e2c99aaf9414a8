"""Candidate against incumbent in a fleet of models: a doubly robust difference of utility, cross-fitted.

Several routes may please, so what is said of one tells nothing about another; explored answers do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from learner.comparison import Difference, choices_on_log, recency, session_numbers
from learner.conditions import GateDecision
from learner.estimators import Floats, weighted_mean
from learner.evaluation import Evaluation
from learner.evidence import Evidence, capped_weights
from learner.settings import LearnerSettings
from learner.window import Window
from router.decide import Router
from router.version import RouterVersion

Ints = npt.NDArray[np.int64]

_LEAST_PROPENSITY = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """n units that are judged; all arrays are (n,).

    ``before`` and ``after`` are the choices, ``expected`` is the gain in utility and ``correction`` what the answers
    say of it; ``weight`` is less with age, ``voted`` how much votes on either choice weigh; a ``session`` is one.
    """

    before: Ints
    after: Ints
    expected: Floats
    correction: Floats
    weight: Floats
    voted: Floats
    session: Ints


def judge_values(
    window: Window,
    evidence: Evidence,
    incumbent: RouterVersion,
    *,
    fold: Ints,
    learned: Mapping[int, RouterVersion],
    settings: LearnerSettings,
) -> Judged:
    """Judge the candidate by folds, each by the version in ``learned`` that did not hear of it.

    The expected gain is Q(x,g) - Q(x,h) less the prices; its correction w/mean(w) (1{a=g} - 1{a=h}) (r - Q(x,a)) /
    max(pi, .05). Together they are doubly robust (Dudik, Langford and Li 2011). h is the incumbent's choice, g and Q
    are the fold's version's, w is the weight of the unit's votes (0: none) and r their mean.
    """
    units, R = window.units, len(incumbent.parameters.routes)
    lengths = units["text"].fillna("").str.len().to_numpy()
    position = {route: i for i, route in enumerate(incumbent.parameters.routes)}
    logged = units["route"].map(lambda route: position.get(route, -1)).to_numpy(dtype=np.int64)
    weight, pleased = _votes(window, evidence, settings=settings)
    before = choices_on_log(incumbent, window).route
    after, Q = before.copy(), np.zeros((len(units), R))
    for k, version in learned.items():
        rows = fold == k
        after[rows] = choices_on_log(version, window, rows).route
        Q[rows] = Router(version).score(window.embeddings[rows], lengths=lengths[rows], similarities=False).pleases
    price = Router(next(iter(learned.values()), incumbent)).penalty(lengths)
    at = np.arange(len(units))
    chance = np.maximum(units["propensity"].fillna(1.0).to_numpy(dtype=np.float64), _LEAST_PROPENSITY)
    on_either = (logged == after).astype(np.float64) - (logged == before)
    heard = weight / max(float(weight[fold >= 0].mean()) if (fold >= 0).any() else 1.0, 1e-9)
    missed = np.where(logged >= 0, pleased - Q[at, np.maximum(logged, 0)], 0.0)
    judged = fold >= 0
    return Judged(
        before=before[judged],
        after=after[judged],
        expected=((Q - price)[at, after] - (Q - price)[at, before])[judged],
        correction=(heard * on_either * missed / chance)[judged],
        weight=recency(window, settings)[judged],
        voted=(weight * np.abs(on_either))[judged],
        session=session_numbers(window)[judged],
    )


def judged_by_value(
    evaluation: Evaluation, judged: Judged, *, routes: tuple[str, ...], settings: LearnerSettings
) -> Evaluation:
    """The evaluation with differences of utility, overall and over the questions that either sends to a route.

    There are no examples: a description says what a model is, not what it is to be asked.
    """
    rows = {route: (judged.before == i) | (judged.after == i) for i, route in enumerate(routes)}
    return replace(
        evaluation,
        of_models=True,
        examples_right=1.0,
        examples_right_before=1.0,
        overall=value_difference(judged, rows=np.ones(len(judged.weight), bool), settings=settings),
        per_route={route: value_difference(judged, rows=r, settings=settings) for route, r in rows.items() if r.any()},
    )


def passes_freely(gate: GateDecision, evaluation: Evaluation) -> bool:
    """Whether the trust region need not hold what passed: where any route may please, two may change places."""
    return evaluation.of_models and gate.verdict == "published"


def value_difference(judged: Judged, *, rows: npt.NDArray[np.bool_], settings: LearnerSettings) -> Difference:
    """Mean gain over ``rows`` in points of utility, with one-sided bounds.

    The expected gain e may be wrong by an error of spread tau, of which the answers' correction c with standard error s
    tells: e + c tau^2 / (tau^2 + s^2), variance tau^2 s^2 / (tau^2 + s^2).
    """
    apart = rows & (judged.before != judged.after)
    n, total = int(rows.sum()), float(judged.weight[rows].sum())
    if not apart.any() or total <= 0:
        return Difference(estimate=0.0, low=0.0, high=0.0, n=n, disagreement=0.0, evidence=0.0)
    share = float(judged.weight[apart].sum()) / total
    weight, session = judged.weight[apart], judged.session[apart]
    spread, error = settings.value_spread**2, _error(judged.correction[apart], weight, session) ** 2
    trust = spread / (spread + error)
    estimate = weighted_mean(judged.expected[apart], weight) + trust * weighted_mean(judged.correction[apart], weight)
    width = float(stdtrit(len(np.unique(session)), settings.gate_level)) * float(np.sqrt(trust * error))
    return Difference(
        estimate=100 * share * estimate,
        low=100 * share * (estimate - width),
        high=100 * share * (estimate + width),
        n=n,
        disagreement=share,
        evidence=float(judged.voted[apart] @ weight),
    )


def _error(value: Floats, weight: Floats, session: Ints) -> float:
    """Standard error of the weighted mean, sessions as clusters (Liang and Zeger 1986)."""
    missed = weight * (value - weighted_mean(value, weight))
    clusters = np.unique(session, return_inverse=True)[1]
    return float(np.sqrt(np.sum(np.bincount(clusters, weights=missed) ** 2)) / weight.sum())


def _votes(window: Window, evidence: Evidence, *, settings: LearnerSettings) -> tuple[Floats, Floats]:
    """Weight of the votes on each unit, users capped, and the share of thumbs-up among them, (n,) each."""
    votes, n = evidence.votes, len(window.units)
    capped = capped_weights(votes, nearest=votes.question, night=np.zeros_like(votes.question), settings=settings)
    weight = np.bincount(votes.unit, weights=capped, minlength=n)
    ups = np.bincount(votes.unit, weights=capped * votes.up, minlength=n)
    return np.asarray(weight, dtype=np.float64), np.asarray(ups / np.maximum(weight, 1e-9))
