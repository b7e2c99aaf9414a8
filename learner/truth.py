"""What each question is about, from where it lies and what was said near it: draws of clusters."""

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from learner.blocks import Tree, block_chances, grow
from learner.centroid_shift import distinct, nearest, with_seeded
from learner.owners import Cube, Near, gather, owners_by_day, posterior, responsibilities
from learner.settings import LearnerSettings
from router.version import Array

_LEAST = 1e-4
_MOST_POINTS = 100
# So many questions make a cluster, if there are not too many.
_QUESTIONS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One clustering of the questions into M clusters, and the tree of these."""

    near: Near
    tree: Tree


def draw_clusters(
    X: Array, day: npt.NDArray[np.int64], *, routes: int, settings: LearnerSettings, seed: int
) -> tuple[Draw, ...]:
    """Cluster the questions ``draws`` times. X (Q, D) unit rows, day (Q,).

    Many routes need more clusters: two for each, if there are questions enough.
    """
    once = X[distinct(X)]
    count = int(
        np.clip(len(once) / _QUESTIONS, min(2 * routes, len(once) / 2), max(settings.most_centroids, 2 * routes))
    )
    draws = []
    for i in range(settings.draws):
        vectors = spherical_clusters(once, count=max(count, 1), settings=settings, seed=seed + 2 * i + 1)
        mass = np.bincount(nearest(once, vectors, count=1)[1][:, 0], minlength=len(vectors))
        near = _near(X, vectors, day=day, settings=settings)
        draws.append(Draw(near=near, tree=grow(vectors, mass.astype(np.float64))))
    return tuple(draws)


def spherical_clusters(X: Array, *, count: int, settings: LearnerSettings, seed: int) -> Array:
    """Unit centres (count, D) of spherical k-means over X (n, D)."""
    kmeans = faiss.Kmeans(
        X.shape[1],
        count,
        niter=settings.cluster_steps,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=_MOST_POINTS,
    )
    kmeans.train(X, init_centroids=with_seeded(X, X[:0], count=count, rng=np.random.default_rng(seed)))
    return np.asarray(kmeans.centroids, dtype=np.float32)


def _near(X: Array, vectors: Array, *, day: npt.NDArray[np.int64], settings: LearnerSettings) -> Near:
    cosines, ids = nearest(X, vectors, count=settings.neighbours)
    pull = np.exp(np.float32(settings.beta) * (cosines - cosines[:, :1]))
    return Near(ids=ids, pull=pull, day=day, days=int(day.max()) + 1, centroids=len(vectors))


def first_owned(draw: Draw, seeded: Array, *, settings: LearnerSettings) -> Cube:
    """Owners (T, M, R) of the clusters before anything was said."""
    near = draw.near
    prior = _prior_owners(draw, seeded, weight=settings.seed_weight)[: near.centroids]
    return np.broadcast_to(prior, (near.days, *prior.shape))


def improve(
    draws: tuple[Draw, ...],
    owned: tuple[Cube, ...],
    said: Array,
    seeded: Array,
    *,
    hazard: npt.NDArray[np.float64],
    settings: LearnerSettings,
) -> tuple[tuple[Cube, ...], npt.NDArray[np.float64]]:
    """One round of expectation maximisation in every draw, and the days' chances of a change that follow from it.

    Who belongs to whom by today's owners, then owners by what was said near them, day by day; each cluster's are the
    mean of those of all the blocks that it may belong to.
    """
    better, changed = [], np.zeros(len(hazard))
    for draw, owners in zip(draws, owned, strict=True):
        near, above = draw.near, draw.tree.above
        heard = gather(near, responsibilities(near, owners, said), said, by_day=True)
        paths = owners_by_day(
            _prior_owners(draw, seeded, weight=settings.seed_weight),
            np.stack([above.T @ day for day in heard]),
            hazard=hazard,
        )
        chance = block_chances(draw.tree, paths.evidence, whole=settings.block)
        better.append(np.stack([chance @ day for day in paths.owners]))
        changed += paths.changed @ np.asarray(chance.mean(axis=0)).ravel() / len(draws)
    firm = settings.hazard_mass
    return tuple(better), np.clip((firm * settings.hazard + changed) / (firm + 1), 1e-5, 0.3)


def average(draws: tuple[Draw, ...], owned: tuple[Cube, ...], *, last_day: bool) -> Array:
    """p(d | where the question lies), geometric mean of the draws, on its own day or as of the last; (Q, R).

    What depends on where a cluster's edge fell by chance cancels.
    """
    total = np.zeros(1)
    for draw, owners in zip(draws, owned, strict=True):
        day = np.full(len(draw.near.day), draw.near.days - 1) if last_day else None
        total = total + np.log(np.maximum(posterior(draw.near, owners, day=day), 10 * _LEAST))
    return softmax(total / len(draws))


def softmax(logits: npt.NDArray[np.floating]) -> Array:
    """Rows that sum to one."""
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(likely / likely.sum(axis=1, keepdims=True), dtype=np.float32)


def _prior_owners(draw: Draw, seeded: Array, *, weight: float) -> npt.NDArray[np.float64]:
    """Owners (2M - 1, R) of every node proportional to exp(weight x mean log prior of the questions near it)."""
    near = draw.near
    share = near.pull / near.pull.sum(axis=1, keepdims=True)
    ones = np.ones((len(seeded), 1), np.float32)
    total = draw.tree.above.T @ gather(near, share, np.concatenate([np.log(seeded), ones], axis=1))
    return softmax(weight * total[:, :-1] / np.maximum(total[:, -1:], 1e-9)).astype(np.float64)
