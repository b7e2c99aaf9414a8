"""How well each route pleases where: a linear mixed model over places, whose variances the votes themselves set.

pleases(x, d) = m + a_d + sum_l b_l(x) + sum_l c_ld(x): what all share, each route's own mean, how hard a place is for
everybody, and what a route is good at. b and c are sums over coarse and fine places near x. A route that was seldom
tried at a fine place thus leans on the coarse one, and there on its own mean (Laird and Ware 1982; variances by the
evidence, MacKay 1992). A vote is 0 or 1 and taken as it is: a linear probability model.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array, eye_array, hstack

from learner.centroid_shift import nearest
from learner.settings import LearnerSettings
from router.version import Array

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_ROUNDS = 12
# Before any vote a vote's variance is .16 (of a chance of .8), and effects have a spread of .07; one effect's worth.
_NOISE, _SPREAD = 0.16, 0.005
_PRIOR_VOTES, _PRIOR_EFFECTS = 5.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinions:
    """n opinions about R routes: ``X`` (n, D) where, ``route`` (n,) on whom, ``pleased`` (n,) 0..1, ``weight`` (n,)."""

    X: Array
    route: Ints
    pleased: Floats
    weight: Floats
    routes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """What was learned: ``mean``, P ``effects`` and their ``covariance`` (P, P); ``places`` are (M_l, D) by level."""

    places: tuple[Array, ...]
    routes: int
    mean: float
    effects: Floats
    covariance: Floats
    settings: LearnerSettings

    def pleases(self, X: Array) -> Floats:
        """The expected chance that each route pleases at X (n, D), within 0..1, (n, R)."""
        return self._expected(place_shares(X, self.places, settings=self.settings))

    def at_places(self) -> Floats:
        """What the finest places have to say, (M, R): mixed by the shares of those near x it is ``pleases(x)``."""
        return self._expected(self._each_place())

    def draws_at_places(self, *, count: int, seed: int) -> Floats:
        """The same as it might be in truth, ``count`` times, (count, M, R), not clipped."""
        scale = np.linalg.cholesky(self.covariance + 1e-10 * np.eye(len(self.effects)))
        noise = np.random.default_rng(seed).normal(size=(len(self.effects), count))
        drawn = self.mean + self._for_routes(self._each_place()) @ (self.effects[:, None] + scale @ noise)
        return np.asarray(drawn.T.reshape(count, -1, self.routes))

    def _each_place(self) -> csr_array:
        *coarser, finest = self.places
        own = eye_array(len(finest), format="csr")
        return csr_array(hstack([place_shares(finest, tuple(coarser), settings=self.settings), own], format="csr"))

    def _for_routes(self, near: csr_array) -> csr_array:
        count = near.shape[0]
        rows = np.repeat(np.arange(count), self.routes)
        return design(near[rows], np.tile(np.arange(self.routes), count), routes=self.routes)

    def _expected(self, near: csr_array) -> Floats:
        expected = np.clip(self.mean + self._for_routes(near) @ self.effects, 0.0, 1.0)
        return np.asarray(expected.reshape(-1, self.routes))


def place_shares(X: Array, places: tuple[Array, ...], *, settings: LearnerSettings) -> csr_array:
    """One, then for each level the shares of the nearest places (they sum to one), (n, 1 + sum M_l)."""
    blocks = [csr_array(np.ones((len(X), 1)))]
    for vectors in places:
        cosines, ids = nearest(X, vectors, count=settings.neighbours)
        pull = np.exp(settings.beta * (cosines - cosines[:, :1]).astype(np.float64))
        pull /= pull.sum(axis=1, keepdims=True)
        starts = np.arange(0, ids.size + 1, ids.shape[1])
        blocks.append(csr_array((pull.ravel(), ids.ravel(), starts), shape=(len(X), len(vectors))))
    return csr_array(hstack(blocks, format="csr"))


def design(near: csr_array, route: Ints, *, routes: int) -> csr_array:
    """Columns of the effects: places for all, then for each route its mean and its places, (n, P)."""
    width = near.shape[1]
    columns = near.indices + width * np.repeat(route, np.diff(near.indptr))
    own = csr_array((near.data, columns, near.indptr), shape=(near.shape[0], width * routes))
    return csr_array(hstack([near[:, 1:], own], format="csr"))


def fit_surface(opinions: Opinions, places: tuple[Array, ...], *, settings: LearnerSettings) -> Surface:
    """Fit effects and variances.

    Given the variances, the effects are ridge regression: H = Z'WZ/s2 + D^-1, effects = H^-1 Z'W(y - m)/s2. Given the
    effects, each kind's variance is (|effects|^2 + v0) / (g + 1), g = count - trace(H^-1)/v, and the noise's likewise.
    """
    Z = design(
        place_shares(opinions.X, places, settings=settings),
        opinions.route,
        routes=opinions.routes,
    )
    w, total = opinions.weight, float(opinions.weight.sum())
    n0 = settings.prior_votes
    mean = (n0 * settings.prior_success + float(w @ opinions.pleased)) / (n0 + total)
    y = opinions.pleased - mean
    weighted = csr_array(Z.multiply(w[:, None]))
    A, b = (Z.T @ weighted).toarray(), weighted.T @ y
    kind = _kinds([len(vectors) for vectors in places], routes=opinions.routes)
    size = np.bincount(kind)
    spread, noise = np.full(len(size), 4 * _SPREAD), _NOISE
    for _ in range(_ROUNDS):
        factor = cho_factor(A / noise + np.diag(1 / spread[kind]), lower=True)
        effects = cho_solve(factor, b / noise)
        covariance = cho_solve(factor, np.eye(len(b)))
        known = size - np.bincount(kind, weights=np.diag(covariance)) / spread
        missed = float(w @ y**2 - 2 * effects @ b + effects @ A @ effects)
        spread = (np.bincount(kind, weights=effects**2) + _PRIOR_EFFECTS * _SPREAD) / (known + _PRIOR_EFFECTS)
        noise = (missed + _PRIOR_VOTES * _NOISE) / (max(total - known.sum(), 0.0) + _PRIOR_VOTES)
    return Surface(
        places=places, routes=opinions.routes, mean=mean, effects=effects, covariance=covariance, settings=settings
    )


def _kinds(sizes: list[int], *, routes: int) -> Ints:
    """Which variance each effect has: places of each level for all, routes' means, places of each level of routes."""
    levels = np.repeat(np.arange(len(sizes)), sizes)
    own = np.concatenate([[0], 1 + levels]) + len(sizes)
    return np.concatenate([levels, np.tile(own, routes)]).astype(np.int64)
