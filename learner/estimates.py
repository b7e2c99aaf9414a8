"""Rates behind the votes: how often routes please, how often users ask again, and whom to believe."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from learner.evidence import Evidence, Floats
from learner.settings import LearnerSettings
from router.version import Array

# An up vote must never speak against a route, nor a re-ask for it.
_LEAST_CONTRAST = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Per-route success s_d (R,), wrong-route success u, re-ask rates if right (R,) and if wrong, reliability (U,)."""

    success: Floats
    wrong_success: float
    reask_right: Floats
    reask_wrong: float
    reliability: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What a night believes; tuples over routes follow ``routes``.

    ``posteriors`` (n, R) is p(d | the unit and all that was said about it), a row for each unit of the window.
    ``wrong_route_given_down`` maps feedback ids of thumbs-down to P(wrong route | down), the share that is a misroute;
    the rest is the SLM's own fault. ``own_down_share`` (R,) is the share of thumbs-down among votes on questions that
    are a route's own, ``votes`` (R,) and ``thumbs_down`` (R,) count votes by the route that answered.
    """

    routes: tuple[str, ...]
    success: tuple[float, ...]
    wrong_route_success: float
    reask_when_right: tuple[float, ...]
    reask_when_wrong: float
    own_down_share: tuple[float, ...]
    votes: tuple[int, ...]
    thumbs_down: tuple[int, ...]
    posteriors: Array
    wrong_route_given_down: Mapping[str, float] = field(default_factory=dict)
    reliability: Mapping[str, float] = field(default_factory=dict)


def prior_rates(settings: LearnerSettings, *, routes: int, users: int) -> Rates:
    """What is believed before any vote."""
    return Rates(
        success=np.full(routes, settings.prior_success),
        wrong_success=settings.prior_wrong_route_success,
        reask_right=np.full(routes, settings.prior_reask_right),
        reask_wrong=settings.prior_reask_wrong,
        reliability=np.ones(users),
    )


def prior_estimates(settings: LearnerSettings, *, routes: tuple[str, ...]) -> Estimates:
    """What a night believes that nobody asked anything and that knows no example: what is believed before any vote."""
    R = len(routes)
    return Estimates(
        routes=routes,
        success=(settings.prior_success,) * R,
        wrong_route_success=settings.prior_wrong_route_success,
        reask_when_right=(settings.prior_reask_right,) * R,
        reask_when_wrong=settings.prior_reask_wrong,
        own_down_share=(0.0,) * R,
        votes=(0,) * R,
        thumbs_down=(0,) * R,
        posteriors=np.zeros((0, R), np.float32),
    )


def estimate_rates(
    evidence: Evidence, truth: Array, weight: Floats, *, settings: LearnerSettings, reliability: Floats
) -> Rates:
    """s_a = (n0 s_0 + sum p_a r) / (n0 + sum p_a), u and the re-ask rates likewise.

    Args:
        evidence: of Q questions.
        truth: (Q, R), p(d | question) as believed now.
        weight: (V,) of the votes.
        settings: priors.
        reliability: (U,) of the users; votes count with it.
    """
    votes, R = evidence.votes, truth.shape[1]
    n0 = settings.prior_votes
    p = truth[votes.question, votes.route].astype(np.float64)
    w = weight * reliability[votes.user]
    success = _share(votes.route, w * p, votes.up, prior=settings.prior_success, strength=n0, size=R)
    liked = (n0 * settings.prior_wrong_route_success + np.sum(w * (1 - p) * votes.up)) / (n0 + np.sum(w * (1 - p)))
    wrong = float(min(liked, settings.prior_success - _LEAST_CONTRAST))
    p = truth[evidence.reask_question, evidence.reask_route].astype(np.float64)
    again = evidence.reask_again
    reask_wrong = float((n0 * settings.prior_reask_wrong + np.sum((1 - p) * again)) / (n0 + np.sum(1 - p)))
    reask_right = _share(evidence.reask_route, p, again, prior=settings.prior_reask_right, strength=n0, size=R)
    return Rates(
        success=np.maximum(success, wrong + _LEAST_CONTRAST),
        wrong_success=wrong,
        reask_right=np.minimum(reask_right, reask_wrong * (1 - _LEAST_CONTRAST)),
        reask_wrong=reask_wrong,
        reliability=reliability,
    )


def _share(
    route: npt.NDArray[np.int64],
    weight: Floats,
    hit: npt.NDArray[np.bool_],
    *,
    prior: float,
    strength: float,
    size: int,
) -> Floats:
    """Posterior mean of a rate for each route, shrunk to the prior by ``strength`` pseudo-counts."""
    hits = np.bincount(route, weights=weight * hit, minlength=size)
    total = np.bincount(route, weights=weight, minlength=size)
    return np.asarray((strength * prior + hits) / (strength + total))


def user_reliability(evidence: Evidence, truth: Array, rates: Rates) -> Floats:
    """The chance that a user votes honestly: honest as the rates say, against votes that say the opposite.

    reliability = a L_honest / (a L_honest + (1 - a) L_liar) with a = .9, tempered to one vote's worth per vote and
    relative to a user who said nothing, so that newcomers count in full.
    """
    votes = evidence.votes
    p = truth[votes.question, votes.route].astype(np.float64)
    up = p * rates.success[votes.route] + (1 - p) * rates.wrong_success
    honest = np.where(votes.up, up, 1 - up)
    odds = np.bincount(votes.user, weights=np.log(honest) - np.log(1 - honest), minlength=len(votes.users))
    prior = 0.9
    belief = prior / (prior + (1 - prior) * np.exp(np.clip(-odds, -50, 50)))
    return np.asarray(np.minimum(1.0, belief / prior))


def log_likelihood(
    evidence: Evidence, weight: Floats, rates: Rates, *, settings: LearnerSettings, shape: tuple[int, int]
) -> Array:
    """l_q(d) = log P(what was said about question q | d is right), up to a constant for each question, (Q, R).

    A vote or a re-ask only tells the route that answered from all others: log s - log u for an up on its own column.
    """
    Q, R = shape
    votes = evidence.votes
    w = weight * rates.reliability[votes.user]
    s, u = rates.success[votes.route], rates.wrong_success
    said = w * np.where(votes.up, np.log(s / u), np.log((1 - s) / (1 - u)))
    right, wrong = rates.reask_right[evidence.reask_route], rates.reask_wrong
    followed = np.where(evidence.reask_again, np.log(right / wrong), np.log((1 - right) / (1 - wrong)))
    corrected = np.flatnonzero(votes.correction >= 0)
    c = settings.correction_confidence
    named = w[corrected] * np.log(c * max(R - 1, 1) / (1 - c))
    cells = np.concatenate(
        [
            votes.question * R + votes.route,
            evidence.reask_question * R + evidence.reask_route,
            votes.question[corrected] * R + votes.correction[corrected],
        ]
    )
    total = np.bincount(cells, weights=np.concatenate([said, followed, named]), minlength=Q * R)
    return np.asarray(total.reshape(Q, R), dtype=np.float32)
