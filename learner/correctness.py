"""Was the route right? Unbiased, noisy answers from votes and re-asks, with the precision of each."""

from dataclasses import dataclass

import numpy as np

from learner.estimates import Estimates
from learner.estimators import Floats
from learner.evidence import Evidence

_LEAST_CONTRAST = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Correctness:
    """For each unit, ``value`` (n,) estimates 1{logged route right} without bias, ``precision`` (n,) is 1/variance.

    Precision 0: nothing is known of the unit. Precisions are in votes: a plain vote has about 1.
    """

    value: Floats
    precision: Floats


def estimate_correctness(evidence: Evidence, estimates: Estimates, *, units: int) -> Correctness:
    """Invert each signal: Y = (z - P(z | wrong)) / (P(z | right) - P(z | wrong)), for z = up, and z = not asked again.

    E[Y | right] = 1 and E[Y | wrong] = 0 whatever the share of right routes, so Y needs no prior; a re-ask is a weaker
    signal than a vote and weighs less. Signals of one unit are averaged by precision.
    """
    s, u = np.array(estimates.success, np.float64), estimates.wrong_route_success
    keep_right, keep_wrong = 1 - np.array(estimates.reask_when_right, np.float64), 1 - estimates.reask_when_wrong
    votes = evidence.votes
    reliable = np.array([estimates.reliability.get(user, 1.0) for user in votes.users] or [1.0])
    voted = _invert(votes.up.astype(np.float64), s[votes.route], np.full(len(votes.route), u, dtype=np.float64))
    weight = votes.share * reliable[votes.user] if len(votes.user) else np.zeros(0)
    asked = _invert(
        (~evidence.reask_again).astype(np.float64),
        keep_right[evidence.reask_route],
        np.full(len(evidence.reask_route), keep_wrong, dtype=np.float64),
    )
    unit = np.concatenate([votes.unit, evidence.reask_unit])
    value = np.concatenate([voted[0], asked[0]])
    precision = np.concatenate([voted[1] * weight, asked[1]]) / _VOTE_PRECISION
    total = np.asarray(np.bincount(unit, weights=precision, minlength=units), np.float64)
    mean = np.bincount(unit, weights=precision * value, minlength=units) / np.maximum(total, 1e-12)
    return Correctness(value=mean, precision=total)


# The precision of a vote with s = .8 and u = .15 on a route that is right as often as not.
_VOTE_PRECISION = 2.9


def _invert(z: Floats, right: Floats, wrong: Floats) -> tuple[Floats, Floats]:
    contrast = np.maximum(right - wrong, _LEAST_CONTRAST)
    variance = 0.5 * (right * (1 - right) + wrong * (1 - wrong)) / contrast**2
    precision = np.where(right - wrong > _LEAST_CONTRAST, 1 / np.maximum(variance, 1e-6), 0.0)
    return (z - wrong) / contrast, precision
