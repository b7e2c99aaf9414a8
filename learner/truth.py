"""What each question is about, from where it lies and what was said near it: draws of coarse and fine clusters."""

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from learner.centroid_shift import distinct, nearest, with_seeded
from learner.owners import Cube, Near, gather, overlap, owners_by_day, posterior, responsibilities
from learner.settings import LearnerSettings
from router.version import Array

_LEAST = 1e-4
_MOST_POINTS = 100
# So many coarse clusters soon, to learn from little; then one for so many questions, to tell apart what changed.
_FEW_COARSE = 60
_IN_COARSE = 45
_MOST_HAZARD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One clustering of the questions, coarse and fine; ``within`` (M, N): in which coarse ones each fine one lies."""

    coarse: Near
    fine: Near
    within: Array


def draw_clusters(
    X: Array, day: npt.NDArray[np.int64], *, routes: int, settings: LearnerSettings, seed: int
) -> tuple[Draw, ...]:
    """Cluster the questions ``draws`` times, each time coarsely and finely. X (Q, D) unit rows, day (Q,).

    Many routes need more clusters: a coarse one for each and two fine ones, if there are questions enough.
    """
    once = X[distinct(X)]
    n = len(once)
    usual = max(n / _IN_COARSE, min(n / 15, _FEW_COARSE))
    coarse = int(np.clip(usual, min(routes, n / 3), max(settings.coarse_clusters, routes)))
    fine = int(np.clip(n / 9, min(2 * routes, n / 2), max(settings.most_centroids, 2 * routes)))

    def near(count: int, number: int) -> Near:
        vectors = spherical_clusters(once, count=count, settings=settings, seed=seed + number)
        return _near(X, vectors, day=day, settings=settings)

    pairs = ((near(coarse, 2 * i), near(fine, 2 * i + 1)) for i in range(settings.draws))
    return tuple(Draw(coarse=wide, fine=narrow, within=overlap(narrow, wide)) for wide, narrow in pairs)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Owners (T, M, R) of a draw's coarse and fine clusters."""

    coarse: Cube
    fine: Cube


def first_owned(draw: Draw, seeded: Array, *, settings: LearnerSettings) -> Owned:
    """Owners before anything was said."""
    logs = np.log(seeded)
    return Owned(
        coarse=_unmoved(draw.coarse, prior_owners(draw.coarse, logs, weight=settings.seed_weight)),
        fine=_unmoved(draw.fine, prior_owners(draw.fine, logs, weight=settings.coarse_weight)),
    )


def improve(
    draws: tuple[Draw, ...],
    owned: tuple[Owned, ...],
    said: Array,
    seeded: Array,
    *,
    hazard: npt.NDArray[np.float64],
    settings: LearnerSettings,
) -> tuple[tuple[Owned, ...], npt.NDArray[np.float64]]:
    """One round of expectation maximisation in every draw, and the days' chances of a change that follow from it.

    The coarse clusters' owners start from the examples, the fine ones' from the coarse; and what changed in a coarse
    cluster has probably changed in the fine ones that lie in it, which hear less.
    """
    better, changed = [], np.zeros(len(hazard))
    for draw, owners in zip(draws, owned, strict=True):
        prior = prior_owners(draw.coarse, np.log(seeded), weight=settings.seed_weight)
        alike = hazard[:, None]
        coarse, moved = _step(draw.coarse, owners.coarse, prior, said, hazard=alike, fresh=1 / said.shape[1])
        located = np.log(np.maximum(posterior(draw.coarse, coarse), _LEAST))
        prior = prior_owners(draw.fine, located, weight=settings.coarse_weight)
        told, fresh = _told(draw, coarse, moved, hazard=hazard)
        fine, left = _step(draw.fine, owners.fine, prior, said, hazard=told, fresh=fresh)
        better.append(Owned(coarse=coarse, fine=fine))
        changed += left.mean(axis=1) / len(draws)
    firm = settings.hazard_mass
    return tuple(better), np.clip((firm * settings.hazard + changed) / (firm + 1), 1e-5, 0.3)


def _told(
    draw: Draw, owners: Cube, moved: npt.NDArray[np.float64], *, hazard: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], Cube]:
    """By the day, how readily each fine cluster's owner is drawn anew (T, M), and by which chances (T, M, R).

    Beside the day's own hazard, under which any route may come, stands the chance that the coarse clusters changed, the
    owner then being theirs. It is squared: every coarse cluster is under a little suspicion, which must not add up.
    """
    heard = (moved @ draw.within.T) ** 2
    total = np.minimum(hazard[:, None] + heard, _MOST_HAZARD)
    share = (heard / (hazard[:, None] + heard))[:, :, None]
    return total, share * (draw.within @ owners) + (1 - share) / owners.shape[2]


def average(draws: tuple[Draw, ...], owned: tuple[Owned, ...], *, last_day: bool) -> Array:
    """p(d | where the question lies), geometric mean of the draws, on its own day or as of the last; (Q, R).

    What depends on where a cluster's edge fell by chance cancels.
    """
    total = np.zeros(1)
    for draw, owners in zip(draws, owned, strict=True):
        day = np.full(len(draw.fine.day), draw.fine.days - 1) if last_day else None
        total = total + np.log(np.maximum(posterior(draw.fine, owners.fine, day=day), 10 * _LEAST))
    return softmax(total / len(draws))


def softmax(logits: npt.NDArray[np.floating]) -> Array:
    """Rows that sum to one."""
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(likely / likely.sum(axis=1, keepdims=True), dtype=np.float32)


def prior_owners(near: Near, log_prior: Array, *, weight: float) -> Cube:
    """Owners (M, R) proportional to exp(weight x mean log prior of the questions near each centroid)."""
    ones = np.ones((len(log_prior), 1), np.float32)
    total = gather(near, near.share, np.concatenate([log_prior, ones], axis=1))
    return softmax(weight * total[:, :-1] / np.maximum(total[:, -1:], 1e-9)).astype(np.float64)


def _unmoved(near: Near, prior: Cube) -> Cube:
    return np.broadcast_to(prior, (near.days, *prior.shape))


def _step(
    near: Near, owners: Cube, prior: Cube, said: Array, *, hazard: npt.NDArray[np.float64], fresh: Cube | float
) -> tuple[Cube, npt.NDArray[np.float64]]:
    """Who belongs to whom by today's owners, then owners by what was said near them, day by day."""
    share = responsibilities(near, owners, said)
    return owners_by_day(prior, gather(near, share, said, by_day=True), hazard=hazard, fresh=fresh)
