"""Where the centroids move and who owns them: seeding, spherical Lloyd steps, E-step, owners, trust region."""

import faiss
import numpy as np
import numpy.typing as npt

from learner.settings import LearnerSettings
from router.centroids import unit_rows
from router.version import Array

_ROWS_AT_ONCE = 4096


def nearest(X: Array, vectors: Array, *, count: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Cosines and numbers of the ``count`` nearest centroids of every row, best first, each (n, count)."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    cosines, ids = index.search(np.ascontiguousarray(X), min(count, len(vectors)))
    return cosines, ids


def move_centroids(X: Array, weight: Array, old: Array, *, count: int, settings: LearnerSettings, seed: int) -> Array:
    """Shift yesterday's centroids towards today's questions and seed new ones where questions lie far from all.

    c <- norm((m0 c_old + sum x) / (m0 + n)) at each of the Lloyd steps, at most ``most_degrees`` from yesterday's
    place; new ones are drawn with probability proportional to (1 - best cosine)^2 and move freely in their first night.

    Args:
        X: (n, D) unit rows, the questions and the examples.
        weight: (n,) what each is worth.
        old: (M, D) yesterday's centroids.
        count: how many centroids there shall be at least.
        settings: steps, anchor, trust region.
        seed: of the draw.

    Returns:
        (max(M, count), D) unit rows; yesterday's come first, in their order.
    """
    rng = np.random.default_rng(seed)
    vectors = _with_new(X, old, count=min(count, len(X)), rng=rng)
    anchor = np.where(np.arange(len(vectors)) < len(old), settings.anchor_mass, 0.0).astype(np.float32)
    start = vectors.copy()
    for _ in range(settings.lloyd_steps):
        owner = nearest(X, vectors, count=1)[1][:, 0]
        sums = _sums(X * weight[:, None], owner, size=len(vectors))
        moved, usable = unit_rows(anchor[:, None] * start + sums)
        vectors = np.where(usable[:, None], moved, vectors)
        vectors[: len(old)] = _within(vectors[: len(old)], old, degrees=settings.most_degrees)
    return vectors


def _with_new(X: Array, old: Array, *, count: int, rng: np.random.Generator) -> Array:
    """Yesterday's centroids and new ones, k-means++ in batches."""
    vectors = old
    while len(vectors) < count:
        best = nearest(X, vectors, count=1)[0][:, 0] if len(vectors) else np.zeros(len(X), np.float32)
        chance = np.maximum(1.0 - best.astype(np.float64), 0.0) ** 2
        if chance.sum() <= 1e-9:
            break
        batch = min(count - len(vectors), 16, int(np.count_nonzero(chance)))
        drawn = rng.choice(len(X), size=batch, replace=False, p=chance / chance.sum())
        vectors = np.concatenate([vectors, X[np.sort(drawn)]])
    return vectors


def _sums(X: Array, owner: npt.NDArray[np.int64], *, size: int) -> Array:
    order = np.argsort(owner, kind="stable")
    owners, starts = np.unique(owner[order], return_index=True)
    result = np.zeros((size, X.shape[1]), dtype=np.float32)
    result[owners] = np.add.reduceat(X[order], starts, axis=0)
    return result


def _within(vectors: Array, old: Array, *, degrees: float) -> Array:
    """Turn back, along the great circle, what went further than ``degrees`` from ``old``."""
    cosine = np.clip(np.einsum("md,md->m", vectors, old), -1.0, 1.0)
    limit = np.float32(np.deg2rad(degrees))
    away, turned = unit_rows(vectors - cosine[:, None] * old)
    too_far = (np.arccos(cosine) > limit) & turned
    back = np.cos(limit) * old + np.sin(limit) * away
    return np.asarray(np.where(too_far[:, None], back, vectors), dtype=np.float32)
