"""Candidate against incumbent on what was logged, cross-fitted: how much better, and how sure."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learner.estimates import Estimates, Rates, log_likelihood
from learner.estimators import Floats, weighted_mean
from learner.evidence import Evidence, capped_weights
from learner.folds import Folds, session_names
from learner.settings import LearnerSettings
from learner.targeted import Disagreement, draw_gains, fit_tilt, gains
from learner.window import Window
from router.decide import Choices, Router, decide_many
from router.version import RouterVersion

# No route is ever taken for impossible: what is said must be able to contradict the belief.
_LEAST_BELIEF = 0.01
_LEAST_HOPE = 0.02
# A plain vote on a route that is right as often as not, with s = .8 and u = .15, moves the log odds by so much.
_VOTE = 1.6
_ALL = slice(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Candidate minus incumbent, in points of accuracy (100 x probability) over all traffic.

    ``evidence`` is how many votes the disagreement carries (re-asks count as parts of a vote), ``disagreement`` the
    share of questions that would go elsewhere, ``low`` and ``high`` one-sided 90 % bounds, ``n`` how many there were.
    """

    estimate: float
    low: float
    high: float
    n: int
    disagreement: float
    evidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is known of Q questions that are judged, over R routes.

    ``before`` and ``after`` (Q,) are the routes that incumbent and candidate choose; ``belief`` (Q, R) is p(d|x) from a
    learner that heard nothing said of the question or its session; ``hope`` (Q,) is the chance that the new choice is
    right where the old one is not, as the candidate sees it; ``said`` (Q, R) the log likelihood of what was said about
    it; ``weight`` (Q,) how much it counts, less with age; ``worth`` (Q,) of how many votes that is; ``session`` (Q,).
    """

    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]
    belief: Floats
    hope: Floats
    said: Floats
    weight: Floats
    worth: Floats
    session: npt.NDArray[np.int64]


def compare_on_log(
    window: Window,
    evidence: Evidence,
    incumbent: RouterVersion,
    estimates: Estimates,
    *,
    folds: Folds,
    candidate: RouterVersion | Mapping[int, RouterVersion],
    settings: LearnerSettings,
) -> Comparison:
    """Compare by folds of sessions: each question is judged by what was learned without it (Chernozhukov et al. 2018).

    Args:
        window: what was logged.
        evidence: what was said, from ``gather_evidence`` on this window.
        incumbent: serves now.
        estimates: rates behind votes and re-asks.
        folds: of the units, with what was learned without each.
        candidate: one that is independent of this window; or by fold the one that was learned without it, which stands
            for the candidate where that saw the question.
        settings: half-life, floors.
    """
    first, fold = evidence.first_unit, folds.of_unit
    before = choices_on_log(incumbent, window).route
    after = np.zeros(len(before), np.int64)
    shape = (len(before), len(incumbent.parameters.routes))
    belief, proposed = np.zeros(shape), np.zeros(shape)
    for k, found in folds.learned.items():
        rows = fold == k
        choices = choices_on_log(candidate if isinstance(candidate, RouterVersion) else candidate[k], window, rows)
        after[rows], proposed[rows] = choices.route, choices.probabilities
        belief[rows] = found.estimates.posteriors[rows]
    least = min(_LEAST_BELIEF, 0.1 / shape[1])
    said = _said(evidence, estimates, settings=settings)
    weight = recency(window, settings)[first]
    judged = fold[first] >= 0
    return Comparison(
        before=before[first][judged],
        after=after[first][judged],
        belief=((1 - least * shape[1]) * belief[first] + least)[judged],
        hope=_hope(proposed[first], before[first], after[first])[judged],
        said=said[judged],
        weight=weight[judged],
        worth=(weight * np.minimum((said.max(axis=1) - said.min(axis=1)) / _VOTE, 2.0))[judged],
        session=session_numbers(window)[first][judged],
    )


def difference(comparison: Comparison, *, rows: npt.NDArray[np.bool_], settings: LearnerSettings) -> Difference:
    """Estimate candidate minus incumbent over the questions in ``rows``, in points.

    Bounds come from draws of the tilt and from the chance that other questions had been asked (sessions as clusters).
    """
    apart = rows & (comparison.before != comparison.after)
    n, total = int(rows.sum()), float(comparison.weight[rows].sum())
    if not apart.any() or total <= 0:
        return Difference(estimate=0.0, low=0.0, high=0.0, n=n, disagreement=0.0, evidence=0.0)
    share = float(comparison.weight[apart].sum()) / total
    d = _disagreement(comparison, apart)
    tilt = fit_tilt(d, spread=settings.tilt_spread)
    gain = np.zeros(len(rows))
    gain[apart] = gains(d, tilt.value)
    noise = np.random.default_rng(settings.seed).normal(size=500) * _sampling_error(comparison, gain, rows)
    drawn = 100 * (share * draw_gains(d, tilt, seed=settings.seed) + noise)
    low, high = np.quantile(drawn, [1 - settings.gate_level, settings.gate_level])
    return Difference(
        estimate=100 * share * weighted_mean(gain[apart], d.weight),
        low=float(low),
        high=float(high),
        n=n,
        disagreement=share,
        evidence=float(comparison.worth[apart].sum()),
    )


def _disagreement(comparison: Comparison, apart: npt.NDArray[np.bool_]) -> Disagreement:
    """The three cases (old, new, neither is right) of the questions in ``apart``.

    Whether the old choice is right is for the learner to say, who heard of it. If it is not, the learner has been as
    wrong as the incumbent (they know the same votes), so whether the new one is then is what the candidate hopes for.
    """
    at = np.arange(int(apart.sum()))
    h, g, belief = comparison.before[apart], comparison.after[apart], comparison.belief[apart]
    likely = np.exp(comparison.said[apart] - comparison.said[apart].max(axis=1, keepdims=True))
    old, hope = belief[at, h], comparison.hope[apart]
    other = np.maximum(1.0 - old - belief[at, g], 1e-9)
    joint = belief * likely
    rest = np.maximum(joint.sum(axis=1) - joint[at, h] - joint[at, g], 0.0) / other
    return Disagreement(
        belief=np.stack([old, (1 - old) * hope, (1 - old) * (1 - hope)], axis=1),
        said=np.stack([likely[at, h], likely[at, g], rest], axis=1),
        weight=comparison.weight[apart],
        session=np.unique(comparison.session[apart], return_inverse=True)[1].astype(np.int64),
    )


def _hope(proposed: Floats, before: npt.NDArray[np.int64], after: npt.NDArray[np.int64]) -> Floats:
    """P(new is right | old is not) = p(new) / (1 - p(old)) by the candidate's own p(d|x) (Q, R), never quite sure."""
    at = np.arange(len(proposed))
    old, new = proposed[at, before], proposed[at, after]
    return np.asarray(np.clip(new / np.maximum(1.0 - old, 1e-9), _LEAST_HOPE, 1 - _LEAST_HOPE))


def _sampling_error(comparison: Comparison, gain: Floats, rows: npt.NDArray[np.bool_]) -> float:
    """Standard error of the weighted mean gain over ``rows``, sessions as clusters."""
    weight = comparison.weight * rows
    residual = weight * (gain - weighted_mean(gain, weight))
    per_session = np.bincount(comparison.session, weights=residual)
    return float(np.sqrt(np.sum(per_session**2)) / weight.sum())


def _said(evidence: Evidence, estimates: Estimates, *, settings: LearnerSettings) -> Floats:
    """Log likelihood of what was said about each question, (Q, R); users count as capped and as reliable as found."""
    votes = evidence.votes
    rates = Rates(
        success=np.array(estimates.success, dtype=np.float64),
        wrong_success=estimates.wrong_route_success,
        reask_right=np.array(estimates.reask_when_right, dtype=np.float64),
        reask_wrong=estimates.reask_when_wrong,
        reliability=np.array([estimates.reliability.get(user, 1.0) for user in votes.users], dtype=np.float64),
    )
    weight = capped_weights(votes, nearest=votes.question, night=np.zeros_like(votes.question), settings=settings)
    shape = (len(evidence.first_unit), len(estimates.routes))
    return log_likelihood(evidence, weight, rates, settings=settings, shape=shape).astype(np.float64)


def choices_on_log(version: RouterVersion, window: Window, rows: npt.NDArray[np.bool_] | slice = _ALL) -> Choices:
    """What ``version`` does with the window's units in ``rows``, without exploring.

    Where no text is kept no keyword can be found: that holds of this unit and not of those that have one.
    """
    texts = window.units["text"][rows].fillna("").tolist()
    return decide_many(Router(version), window.embeddings[rows], texts=texts, explore=False)


def recency(window: Window, settings: LearnerSettings) -> Floats:
    """How much each unit counts, (n,).

    It halves with age; where little is asked, more slowly, so that the newest ``recent_questions`` count.
    """
    age = np.maximum((window.watermark - window.units["occurred_at"]).dt.total_seconds().to_numpy() / 86_400, 0)
    nth = min(len(age), int(settings.recent_questions)) - 1
    half_life = max(settings.evidence_half_life_days, float(np.partition(age, nth)[nth]) if nth >= 0 else 0.0)
    return np.asarray(0.5 ** (age / half_life), dtype=np.float64)


def session_numbers(window: Window) -> npt.NDArray[np.int64]:
    """Number each unit's session, (n,)."""
    return np.unique(np.array(session_names(window), dtype=str), return_inverse=True)[1].astype(np.int64)
