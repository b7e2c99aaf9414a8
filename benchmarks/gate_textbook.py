"""What the textbook estimators make of the same logs, beside the gate's own: ``textbook_changes``."""

import numpy as np

from learner.estimators import doubly_robust, effective_sample_size, ips, snips
from learner.folds import Folds
from learner.learn import LearnedCentroids
from learner.window import Window
from router.decide import Router, decide_many
from router.version import RouterVersion


def textbook_changes(
    window: Window, learned: LearnedCentroids, folds: Folds, *, incumbent: RouterVersion, candidate: RouterVersion
) -> dict[str, float]:
    """Change in points by IPS, SNIPS and the doubly robust estimator, from the votes and the logged propensities alone.

    They estimate how often answers are liked; by the learned success rates that is brought to points of accuracy. The
    doubly robust one predicts likes from what was believed without the question's own fold. ``ess`` is the effective
    sample size that the candidate's matches leave.
    """
    liked, rated = _liked(window, learned)
    rows = np.flatnonzero(rated & (folds.of_unit >= 0))
    if not len(rows):
        return {"ips": 0.0, "snips": 0.0, "dr": 0.0, "ess": 0.0}
    logged = np.array([incumbent.parameters.routes.index(route) for route in window.units["route"].iloc[rows]])
    propensity = np.maximum(window.units["propensity"].fillna(1.0).to_numpy()[rows], 1e-6)
    chance = _chance_liked(folds, learned)[rows]
    at, reward = np.arange(len(rows)), liked[rows]
    values = []
    for version in (incumbent, candidate):
        route = decide_many(Router(version), window.embeddings[rows], explore=False).route
        match, q = route == logged, chance[at, route]
        robust = doubly_robust(reward, match, propensity, q_logged=chance[at, logged], q_new=q)
        values.append((ips(reward, match, propensity), snips(reward, match, propensity), robust))
    rates = learned.estimates
    scale = 100 / (float(np.mean(rates.success)) - rates.wrong_route_success)
    names = ("ips", "snips", "dr")
    changes = {name: scale * (new - old) for name, old, new in zip(names, *values, strict=True)}
    return changes | {"ess": effective_sample_size(match / propensity)}


def _liked(window: Window, learned: LearnedCentroids) -> tuple[np.ndarray, np.ndarray]:
    """Share of a unit's votes that are thumbs-up, and which units have any, both (n,)."""
    votes, n = learned.evidence.votes, len(window.units)
    count = np.bincount(votes.unit, minlength=n)
    return np.bincount(votes.unit, weights=votes.up, minlength=n) / np.maximum(count, 1), count > 0


def _chance_liked(folds: Folds, learned: LearnedCentroids) -> np.ndarray:
    """P(liked | question, route), (n, R), by what was learned without the question."""
    belief = np.array(learned.estimates.posteriors, dtype=np.float64)
    for k, found in folds.learned.items():
        belief[folds.of_unit == k] = found.estimates.posteriors[folds.of_unit == k]
    wrong = learned.estimates.wrong_route_success
    return np.asarray(belief * np.array(learned.estimates.success) + (1 - belief) * wrong)
