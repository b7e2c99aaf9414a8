"""Exploring where it is ambiguous, with exact propensities."""

import numpy as np
import numpy.typing as npt

from router.centroids import Matrix

MOST = 0.5


def exploration_propensities(
    ranked: npt.NDArray[np.int64],
    probabilities: Matrix,
    *,
    kappa: float,
    exploring: npt.NDArray[np.bool_],
    most: float = MOST,
) -> Matrix:
    """The chance with which the policy picks each route, (n, R); rows sum to one.

    p_explore(x) = min(most, kappa (1 - max p(d|x))), shared between the other ranks in proportion to p(d|x).

    Args:
        ranked: (n, r) routes that may be chosen, best utility first; -1 where there is none.
        probabilities: (n, R) p(d|x).
        kappa: how readily to explore.
        exploring: (n,) whether this row may explore at all; the others choose rank 1 for certain.
        most: the most that is explored, however ambiguous it is.
    """
    n, R = probabilities.shape
    rows = np.arange(n)[:, None]
    others = ranked[:, 1:]
    shares = np.where(others >= 0, probabilities[rows, others], 0.0)
    total = shares.sum(axis=1)
    p_explore = np.minimum(most, kappa * (1.0 - probabilities.max(axis=1)))
    p_explore = np.where(exploring & (total > 0), np.maximum(p_explore, 0.0), 0.0)
    propensities = np.zeros((n, R + 1))  # the last column takes what is written for -1
    propensities[rows, others] = shares / np.maximum(total, 1e-300)[:, None] * p_explore[:, None]
    propensities[rows[:, 0], ranked[:, 0]] += 1.0 - p_explore
    return propensities[:, :R]


def draw(propensities: npt.NDArray[np.float64], *, greedy: int, chance: float) -> int:
    """The route that falls to ``chance``, uniform on [0, 1): the greedy one owns the upper end of the interval."""
    for route in np.flatnonzero(propensities):
        if route == greedy:
            continue
        chance -= propensities[route]
        if chance < 0:
            return int(route)
    return greedy
