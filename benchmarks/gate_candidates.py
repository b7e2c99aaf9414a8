"""Candidates of known true change for ``benchmarks.gate``: its regions given to right or wrong owners."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.feedback_world import Array, Ints
from router.decide import Router, decide_many
from router.version import RouterVersion

Floats = npt.NDArray[np.float64]
# An example of the operator's keeps its route, as in a night.
_EXAMPLE = 1 - 1e-5
_CLOSE_ENOUGH = 0.5
_APART = 0.1
# A better candidate spoils no route; those that do are a kind of their own.
_RUINED = -5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Questions (n, D) by whose ``label`` (n,) versions are measured, and what the incumbent makes of them.

    ``near`` and ``weight`` (n, k) are its nearest centroids and their say; ``truth`` (M, R) is whose the questions
    nearest to each centroid are; ``free`` are the centroids that are no operator's example.
    """

    incumbent: RouterVersion
    X: Array
    label: Ints
    right: Floats
    near: Ints
    weight: Floats
    truth: Array
    free: Ints

    @property
    def improvable(self) -> Ints:
        """Free centroids whose owners are not as the labels say."""
        apart = 0.5 * np.abs(self.incumbent.centroids.owners - self.truth).sum(axis=1)
        return np.asarray(self.free[apart[self.free] > _APART])

    def change(self, version: RouterVersion) -> float:
        """Points of accuracy that a version is better than the incumbent on these questions."""
        return 100 * float(np.mean(_right(version, self.X, self.label) - self.right))

    def recall_change(self, version: RouterVersion, route: int) -> float:
        """The same over the questions of one route."""
        own = self.label == route
        return 100 * float(np.mean((_right(version, self.X, self.label) - self.right)[own]))


def open_pool(incumbent: RouterVersion, X: Array, label: Ints, *, examples: Array) -> Pool:
    """Measure the incumbent on questions (n, D) that it never saw, with their routes (n,)."""
    index = Router(incumbent).index
    cosines, near = index.nearest(X)
    weight = np.exp(index.beta * (cosines - cosines[:, :1]).astype(np.float64))
    vectors, R = incumbent.centroids.vectors, len(incumbent.parameters.routes)
    truth = np.full((len(vectors), R), 0.02, np.float32)
    np.add.at(truth, (near[:, 0], label), 1.0)
    visited = np.bincount(near[:, 0], minlength=len(vectors)) > 0
    own = (vectors @ examples.T).max(axis=1) >= _EXAMPLE if len(examples) else np.zeros(len(vectors), bool)
    return Pool(
        incumbent=incumbent,
        X=X,
        label=label,
        right=_right(incumbent, X, label),
        near=near,
        weight=weight / weight.sum(axis=1, keepdims=True),
        truth=truth / truth.sum(axis=1, keepdims=True),
        free=np.flatnonzero(visited & ~own),
    )


def of_change(pool: Pool, *, points: float, rng: np.random.Generator) -> RouterVersion | None:
    """A candidate that is so many points better; some regions are better and others worse. None where it cannot be."""
    old = pool.incumbent.centroids.owners
    better = max(points, 0.0) + rng.uniform(0, 3)
    owners, _ = _moved(pool, old, rng.permutation(pool.improvable), pool.truth, until=better)
    wrong, order = _wrong_regions(pool, rng)
    owners, _ = _moved(pool, owners, order, wrong, until=points)
    return _close(pool, owners, points)


def with_one_route_ruined(pool: Pool, *, rng: np.random.Generator) -> tuple[RouterVersion, int]:
    """Half of what one route got right goes elsewhere, the other routes are better, and it; position of the route."""
    centroids = pool.incumbent.centroids
    R = centroids.owners.shape[1]
    route = int(rng.integers(R))
    mine = pool.free[centroids.owners[pool.free].argmax(axis=1) == route]
    own = pool.label == route

    def recall_lost(owners: Array) -> float:
        return -100 * float(np.mean(_hits(pool, owners)[own] - pool.right[own]))

    wrong, order = _wrong_regions(pool, rng)
    order = order[np.isin(order, mine)]
    count = _bisect(lambda n: recall_lost(_given(centroids.owners, order[:n], wrong)), len(order), 50.0)
    ruined = _given(centroids.owners, order[:count], wrong)
    others = rng.permutation(np.setdiff1d(pool.improvable, mine))
    owners, _ = _moved(pool, ruined, others, pool.truth, until=rng.uniform(1, 4))
    return _with_owners(pool, owners), route


def collapsed(pool: Pool, *, rng: np.random.Generator) -> RouterVersion:
    """Everything goes to one route."""
    owners = np.full_like(pool.incumbent.centroids.owners, 1e-3)
    owners[:, int(rng.integers(owners.shape[1]))] = 1.0
    return _with_owners(pool, owners / owners.sum(axis=1, keepdims=True))


def _moved(pool: Pool, owners: Array, order: Ints, target: Array, *, until: float) -> tuple[Array, int]:
    """Give the first centroids of ``order`` the owners of ``target`` until the change reaches ``until``; how many."""

    def change(count: int) -> float:
        return 100 * float(np.mean(_hits(pool, _given(owners, order[:count], target)) - pool.right))

    sign = 1.0 if until >= change(0) else -1.0
    count = _bisect(lambda n: sign * change(n), len(order), sign * until)
    return _given(owners, order[:count], target), count


def _bisect(reached: Callable[[int], float], most: int, wanted: float) -> int:
    """The count at which a (nearly) rising function comes nearest to what is wanted."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) >= wanted else (middle, high)
    return low if abs(reached(low) - wanted) < abs(reached(high) - wanted) else high


def _given(owners: Array, centroids: Ints, target: Array) -> Array:
    changed = owners.copy()
    changed[centroids] = target[centroids]
    return changed


def _wrong_regions(pool: Pool, rng: np.random.Generator) -> tuple[Array, Ints]:
    """Regions of 1 to 8 neighbouring centroids with one route each that is not theirs: owners (M, R), and their order.

    Centroids that could be improved are left out, so that what becomes better and what becomes worse is apart.
    """
    vectors = pool.incumbent.centroids.vectors
    M, R = pool.truth.shape
    order = rng.permutation(np.setdiff1d(pool.free, pool.improvable))
    heads = order[: max(1, len(order) // int(rng.integers(1, 9)))]
    region = (vectors @ vectors[heads].T).argmax(axis=1)
    route = rng.integers(R, size=len(heads))[region]
    route = np.where(route == pool.truth.argmax(axis=1), (route + 1) % R, route)
    owners = np.full((M, R), 0.02, np.float32)
    owners[np.arange(M), route] = 1.0
    return owners / owners.sum(axis=1, keepdims=True), order[np.argsort(region[order], kind="stable")]


def _hits(pool: Pool, owners: Array) -> Floats:
    """Whether each question would go to its route by these owners, (n,)."""
    chances = np.einsum("nk,nkr->nr", pool.weight, owners[pool.near])
    return np.asarray(chances.argmax(axis=1) == pool.label, dtype=np.float64)


def _right(version: RouterVersion, X: Array, label: Ints) -> Floats:
    return np.asarray(decide_many(Router(version), X, explore=False).route == label, dtype=np.float64)


def _close(pool: Pool, owners: Array, points: float) -> RouterVersion | None:
    version = _with_owners(pool, owners)
    changed = _right(version, pool.X, pool.label) - pool.right
    if abs(100 * float(changed.mean()) - points) > _CLOSE_ENOUGH:
        return None
    ruined = points > 0 and min(100 * changed[pool.label == r].mean() for r in np.unique(pool.label)) < _RUINED
    return None if ruined else version


def _with_owners(pool: Pool, owners: Array) -> RouterVersion:
    old = pool.incumbent
    return replace(old, centroids=replace(old.centroids, owners=owners), number=0, fingerprint="")
