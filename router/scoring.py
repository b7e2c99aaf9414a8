"""Probabilities and utilities of the routes: the one scoring that serving, learner and gate share."""

from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
import numpy.typing as npt

from router.centroids import CentroidIndex, Matrix
from router.decision import Policy
from router.exploration import MOST
from router.rules import KeywordRules
from router.version import RouterParameters, RouterVersion

_RANKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of n queries over R routes, columns in the order of ``RouterParameters.routes``.

    ``probabilities`` p(d|x), ``pleases`` (the chance that a route's answer is liked), ``utilities`` and
    ``similarities`` (best cosine to an own centroid) are (n, R); ``best_similarity`` is (n,), over all centroids;
    ``allowed`` (n, R) says which routes may be chosen at all.
    """

    probabilities: Matrix
    pleases: Matrix
    utilities: Matrix
    similarities: npt.NDArray[np.float32]
    best_similarity: npt.NDArray[np.float64]
    allowed: npt.NDArray[np.bool_]


class Router:
    """A router version made ready to decide. It is never changed; a new version is a new Router.

    Args:
        version: what decides.
        policy: ``rules`` (keywords and pins, else the fallback), ``centroid`` (who pleases most, whatever it costs) or
            ``cost_aware`` (price and lateness count too).
    """

    def __init__(self, version: RouterVersion, *, policy: Policy = "cost_aware") -> None:
        if policy not in get_args(Policy):
            raise ValueError(f"policy must be one of {', '.join(get_args(Policy))}, not {policy!r}")
        parameters = version.parameters
        self.version = version
        self.policy: Policy = policy
        self.routes = parameters.routes
        self.index = CentroidIndex(version.centroids, neighbours=parameters.neighbours, beta=parameters.beta)
        self.fallback = parameters.routes.index(version.fleet.fallback)
        self.position = {name: i for i, name in enumerate(parameters.routes)}
        by_name = {route.name: route for route in version.fleet.routes}
        self.rules = KeywordRules([by_name[name].keywords for name in parameters.routes])
        # Ties are broken by name, so that the order of the routes in the file decides nothing.
        self.name_order = np.argsort(np.array(parameters.routes, dtype=object), kind="stable")
        self.penalties = _penalties(version) if policy == "cost_aware" else np.zeros((1, len(self.routes)))
        self._length_bins = np.array(parameters.length_bins if policy == "cost_aware" else (), dtype=np.int64)
        self._success = np.array(parameters.success, dtype=np.float64)
        self._thresholds = np.array([_threshold(by_name[name].score_threshold) for name in parameters.routes])

    @property
    def parameters(self) -> RouterParameters:
        """The numbers beside the centroids."""
        return self.version.parameters

    @property
    def tried(self) -> int:
        """Among how many of the best routes it explores: three, or all where any may please."""
        return _RANKS if self.version.centroids.values is None else len(self.routes)

    @property
    def most_explored(self) -> float:
        """How much of the queries that are ambiguous it explores at most; there is no bound where any may please."""
        return MOST if self.version.centroids.values is None else 1.0

    @cached_property
    def has_thresholds(self) -> bool:
        """Whether any route asks for a minimum similarity."""
        return bool((self._thresholds > -1).any())

    def penalty(self, lengths: npt.ArrayLike) -> Matrix:
        """Cost and lateness in units of utility, (n, R), for queries of these lengths (n,) in characters."""
        rows: Matrix = self.penalties[np.searchsorted(self._length_bins, np.asarray(lengths), side="right")]
        return rows

    def ruled_utilities(self, route: int, *, length: int) -> npt.NDArray[np.float64]:
        """Utilities (R,) where a rule settles which route is right: s_d for it, u for the others, less the penalty."""
        pleases = np.full(len(self.routes), self.parameters.wrong_route_success)
        pleases[route] = self._success[route]
        utilities: npt.NDArray[np.float64] = pleases - self.penalty([length])[0]
        return utilities

    def score(self, X: npt.ArrayLike, *, lengths: npt.ArrayLike, similarities: bool = True) -> Scores:
        """Score queries by their embeddings.

        U_d = s_d p(d|x) + u (1 - p(d|x)) - lambda_c cost_d / mean cost - lambda_l max(0, latency_d - slo_d) / slo_d;
        where values were learned, the first two terms are sum_k w_k values_k(d). (docs/architecture.md, the router)

        Args:
            X: (n, D) embeddings.
            lengths: (n,) lengths of the queries in characters; they pick the bin of cost and latency.
            similarities: False leaves them at -1 where no threshold needs them (the learner's sweeps are faster so).
        """
        P, V, best = self.index.posterior_and_values(X)
        u = self.parameters.wrong_route_success
        pleases = V if V is not None else u + P * (self._success - u)
        wanted = similarities or self.has_thresholds
        similar = self.index.route_similarity(X) if wanted else np.full(P.shape, -1.0, dtype=np.float32)
        return Scores(
            probabilities=P,
            pleases=pleases,
            utilities=pleases - self.penalty(lengths),
            similarities=similar,
            best_similarity=best,
            allowed=similar >= self._thresholds if self.has_thresholds else np.ones(P.shape, dtype=bool),
        )


def _threshold(value: float | None) -> float:
    return -2.0 if value is None else value


def _penalties(version: RouterVersion) -> Matrix:
    """Cost and lateness of each route by length bin in units of utility, (B, R)."""
    parameters = version.parameters
    cost = np.array(parameters.cost, dtype=np.float64).T
    latency = np.array(parameters.latency_ms, dtype=np.float64).T
    slo_of = {route.name: route.latency_slo_ms or np.inf for route in version.fleet.routes}
    slo = np.array([slo_of[name] for name in parameters.routes])
    mean_cost = np.maximum(cost.mean(axis=1, keepdims=True), 1e-12)
    late = np.maximum(0.0, latency - slo) / slo
    penalties: Matrix = parameters.cost_weight * cost / mean_cost + parameters.latency_weight * late
    return penalties
