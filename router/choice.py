"""From scores to a choice: rules, thresholds, abstention, exploration; the same code for one query and for many."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.centroids import Matrix
from router.exploration import exploration_propensities
from router.scoring import Router, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a policy does with n queries, sessions and pins left aside.

    ``route`` (n,) is the greedy choice as a position in ``RouterParameters.routes``; ``propensities`` (n, R) is the
    chance of every route under exploration; ``abstained`` and ``ruled`` (n,) tell why there was nothing to weigh.
    """

    route: npt.NDArray[np.int64]
    propensities: Matrix
    abstained: npt.NDArray[np.bool_]
    ruled: npt.NDArray[np.bool_]
    scores: Scores

    @property
    def probabilities(self) -> Matrix:
        """p(d|x), (n, R)."""
        return self.scores.probabilities

    @property
    def utilities(self) -> Matrix:
        """Utility of every route, (n, R)."""
        return self.scores.utilities


def choose(
    router: Router, scores: Scores, *, named: Sequence[tuple[int, ...]] | None = None, explore: bool = True
) -> Choices:
    """Choose a route for each scored query.

    Args:
        router: whose policy and parameters decide.
        scores: of n queries.
        named: for each query the routes that its keywords name; where there are any, only they may be chosen.
        explore: False makes every choice certain.
    """
    allowed, ruled = scores.allowed, np.zeros(len(scores.utilities), dtype=bool)
    if named is not None and any(named):
        allowed = allowed.copy()
        for row, routes in enumerate(named):
            if routes:
                allowed[row], ruled[row] = False, True
                allowed[row, list(routes)] = True
    abstained = ~ruled & ((scores.best_similarity < router.parameters.abstain_below) | ~allowed.any(axis=1))
    if router.policy == "rules":
        abstained = ~ruled
    ranked = rank(router, np.where(allowed, scores.utilities, -np.inf), count=router.tried)
    ranked[abstained, 0] = router.fallback
    exploring = ~abstained & ~ruled & explore
    return Choices(
        route=ranked[:, 0],
        propensities=exploration_propensities(
            ranked,
            scores.probabilities,
            kappa=router.parameters.explore_kappa,
            exploring=exploring,
            most=router.most_explored,
        ),
        abstained=abstained,
        ruled=ruled,
        scores=scores,
    )


def rank(router: Router, utilities: Matrix, *, count: int = 1) -> npt.NDArray[np.int64]:
    """The best routes of each row, best first, (n, count); ties by name; -1 where fewer are left (utility -inf)."""
    order = router.name_order
    ranked = order[np.argsort(-utilities[:, order], axis=1, kind="stable")[:, :count]]
    return np.where(np.isneginf(np.take_along_axis(utilities, ranked, axis=1)), -1, ranked)
