"""Where the centroids move: seeding, spherical Lloyd steps, how far a centroid may turn."""

import faiss
import numpy as np
import numpy.typing as npt

from learner.settings import LearnerSettings
from router.centroids import unit_rows
from router.version import Array, Centroids

Ints = npt.NDArray[np.int64]

_SEEDED_AT_ONCE = 16
# What a centroid knows of routes that none of its questions spoke of, in questions.
_UNSEEN = 0.01


def nearest(X: Array, vectors: Array, *, count: int) -> tuple[Array, Ints]:
    """Cosines and numbers of the ``count`` nearest centroids of every row, best first, each (n, count)."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    cosines, ids = index.search(np.ascontiguousarray(X), min(count, len(vectors)))
    return cosines, ids


def distinct(X: Array) -> Ints:
    """The first row of each value of X (n, D), in order: what comes again word for word tells nothing new of places.

    So a question that half of the users ask does not take half of the centroids.
    """
    rows = np.ascontiguousarray(X)
    values = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    return np.sort(np.unique(values, return_index=True)[1]).astype(np.int64)


def shift_centroids(
    X: Array, truth: Array, old: Centroids, *, count: int, settings: LearnerSettings, seed: int
) -> Centroids:
    """Shift each route's centroids towards the questions that are its own now.

    Args:
        X: (Q, D) questions.
        truth: (Q, R) which route each belongs to, as believed now.
        old: yesterday's centroids.
        count: how many there shall be, shared between routes by their questions.
        settings: steps, anchor, trust region.
        seed: of the draw of new centroids.

    Returns:
        Centroids that stand for at least one question each, with the mean truth of these as owners.
    """
    once = distinct(X)
    route, old_route = truth[once].argmax(axis=1), old.owners.argmax(axis=1)
    moved = []
    for r in range(truth.shape[1]):
        own = X[once[route == r]]
        if len(own):
            share = max(1, min(round(count * len(own) / len(once)), -(-len(own) // 3)))
            moved.append(move_centroids(own, old.vectors[old_route == r], count=share, settings=settings, seed=seed))
    vectors = np.concatenate([old.vectors[:0], *moved])
    if len(vectors) == 0:
        return Centroids(vectors=vectors, owners=np.zeros((0, truth.shape[1]), np.float32), mass=vectors[:, 0])
    owner = nearest(X, vectors, count=1)[1][:, 0]
    mass = np.bincount(owner, minlength=len(vectors))
    owners = grouped_sums(truth, owner, size=len(vectors)) + np.float32(_UNSEEN)
    kept = mass > 0
    return Centroids(
        vectors=vectors[kept],
        owners=(owners / owners.sum(axis=1, keepdims=True))[kept].astype(np.float32),
        mass=mass[kept].astype(np.float32),
    )


def move_centroids(X: Array, old: Array, *, count: int, settings: LearnerSettings, seed: int) -> Array:
    """Move yesterday's centroids towards today's questions and add new ones where questions lie far from all.

    c <- norm((m0 c_old + sum x) / (m0 + n)) at each of the Lloyd steps, at most ``most_degrees`` from yesterday's
    place; new ones are drawn with probability proportional to (1 - best cosine)^2 and move freely in their first night.

    Args:
        X: (n, D) unit rows.
        old: (M, D) yesterday's centroids.
        count: how many centroids there shall be.
        settings: steps, anchor, trust region.
        seed: of the draw.

    Returns:
        Unit rows (count, D), fewer where there are fewer questions: yesterday's in their order, without those that
        nothing is nearest to and the smallest of too many, then new ones.
    """
    if len(old):
        mass = np.bincount(nearest(X, old, count=1)[1][:, 0], minlength=len(old))
        kept = np.sort(np.argsort(-mass, kind="stable")[:count])
        old = old[kept[mass[kept] > 0]]
    vectors = with_seeded(X, old, count=min(count, len(X)), rng=np.random.default_rng(seed))
    anchor = np.where(np.arange(len(vectors)) < len(old), settings.anchor_mass, 0.0).astype(np.float32)
    start = vectors.copy()
    for _ in range(settings.lloyd_steps):
        owner = nearest(X, vectors, count=1)[1][:, 0]
        moved, usable = unit_rows(anchor[:, None] * start + grouped_sums(X, owner, size=len(vectors)))
        vectors = np.where(usable[:, None], moved, vectors)
        vectors[: len(old)] = _within(vectors[: len(old)], old, degrees=settings.most_degrees)
    return vectors


def with_seeded(X: Array, old: Array, *, count: int, rng: np.random.Generator) -> Array:
    """Yesterday's centroids and, up to ``count``, questions drawn far from all that is there (k-means++ in batches)."""
    vectors = old
    best = nearest(X, vectors, count=1)[0][:, 0] if len(vectors) else np.zeros(len(X), np.float32)
    while len(vectors) < count:
        chance = np.maximum(1.0 - best.astype(np.float64), 0.0) ** 2
        if chance.sum() <= 1e-9:
            break
        batch = min(count - len(vectors), _SEEDED_AT_ONCE, int(np.count_nonzero(chance)))
        new = X[np.sort(rng.choice(len(X), size=batch, replace=False, p=chance / chance.sum()))]
        best = np.maximum(best, (X @ new.T).max(axis=1))
        vectors = np.concatenate([vectors, new])
    return vectors


def grouped_sums(values: Array, group: Ints, *, size: int) -> Array:
    """Sum of the rows of each group, (size, C)."""
    order = np.argsort(group, kind="stable")
    groups, starts = np.unique(group[order], return_index=True)
    result = np.zeros((size, values.shape[1]), dtype=np.float32)
    if len(groups):
        result[groups] = np.add.reduceat(values[order], starts, axis=0)
    return result


def _within(vectors: Array, old: Array, *, degrees: float) -> Array:
    """Turn back, along the great circle, what went further than ``degrees`` from ``old``."""
    cosine = np.clip(np.einsum("md,md->m", vectors, old), -1.0, 1.0)
    limit = np.float32(np.deg2rad(degrees))
    away, turned = unit_rows(vectors - cosine[:, None] * old)
    too_far = (np.arccos(cosine) > limit) & turned
    back = np.cos(limit) * old + np.sin(limit) * away
    return np.asarray(np.where(too_far[:, None], back, vectors), dtype=np.float32)
