"""Other ways to learn from thumbs, each given the same votes as Trimtab: fit on a log, predict routes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

Array = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Predict = Callable[[Array], Ints]
Learner = Callable[["Log"], Predict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What a learner may see: examples ``seed_vectors`` (S, D), ``seed_route`` (S,), and V votes in the order of time.

    ``X`` (V, D) are the questions voted on, ``route`` (V,) who answered, ``up`` (V,) the thumb.
    """

    routes: int
    seed_vectors: Array
    seed_route: Ints
    X: Array
    route: Ints
    up: npt.NDArray[np.bool_]

    @property
    def liked(self) -> tuple[Array, Ints]:
        """Examples and questions with a thumbs-up, with their routes."""
        return np.concatenate([self.seed_vectors, self.X[self.up]]), np.concatenate(
            [self.seed_route, self.route[self.up]]
        )


def _unit(X: Array) -> Array:
    return np.asarray(X / np.maximum(np.linalg.norm(X, axis=-1, keepdims=True), 1e-9), dtype=np.float32)


def _means(log: Log) -> Array:
    return _unit(np.stack([log.seed_vectors[log.seed_route == r].mean(axis=0) for r in range(log.routes)]))


def _nearest_owner(prototypes: Array, owner: Ints) -> Predict:
    return lambda X: owner[np.argmax(X @ prototypes.T, axis=1)]


def rocchio(log: Log) -> Predict:
    """Mean of examples and liked questions less .25 times the mean of the disliked (Rocchio 1971, usual weights)."""
    X, route = log.liked
    centroids = []
    for r in range(log.routes):
        disliked = log.X[~log.up & (log.route == r)]
        away = 0.25 * disliked.mean(axis=0) if len(disliked) else 0.0
        centroids.append(X[route == r].mean(axis=0) - away)
    return _nearest_owner(_unit(np.stack(centroids)), np.arange(log.routes))


def lvq(log: Log, *, rate: float = 0.05) -> Predict:
    """LVQ1: the voted route's nearest prototype is pulled to a liked question and pushed from a disliked one."""
    prototypes, owner = log.seed_vectors.copy(), log.seed_route
    for x, r, up in zip(log.X, log.route, log.up, strict=True):
        own = np.flatnonzero(owner == r)
        best = own[np.argmax(prototypes[own] @ x)]
        prototypes[best] = _unit(prototypes[best] + (rate if up else -rate) * (x - prototypes[best]))
    return _nearest_owner(prototypes, owner)


def ema(log: Log, *, rate: float = 0.05, degrees: float = 20.0) -> Predict:
    """One centroid a route, moved by an exponential average and clamped to ``degrees`` from where it began."""
    start = _means(log)
    centroids = start.copy()
    for x, r, up in zip(log.X, log.route, log.up, strict=True):
        moved = _unit(centroids[r] + (rate if up else -rate) * x)
        if moved @ start[r] >= np.cos(np.deg2rad(degrees)):
            centroids[r] = moved
    return _nearest_owner(centroids, np.arange(log.routes))


def knn(log: Log, *, k: int = 5) -> Predict:
    """Vote of the five nearest among examples and liked questions."""
    return nearest_labelled(*log.liked, routes=log.routes, k=k)


def nearest_labelled(X: Array, route: Ints, *, routes: int, k: int) -> Predict:
    """A question goes where the k nearest of X (n, D) with routes (n,) go, each voting with its cosine."""
    index = faiss.IndexFlatIP(X.shape[1])
    index.add(np.ascontiguousarray(X))

    def predict(Z: Array) -> Ints:
        weight, near = index.search(np.ascontiguousarray(Z), min(k, len(X)))
        votes = np.zeros((len(Z), routes))
        np.add.at(votes, (np.arange(len(Z))[:, None], route[near]), weight)
        return np.asarray(votes.argmax(axis=1))

    return predict


def kmeans(log: Log, *, each: int = 15) -> Predict:
    """Up to 15 centroids a route over its examples and liked questions."""
    return route_centroids(*log.liked, routes=log.routes, each=each)


def route_centroids(X: Array, route: Ints, *, routes: int, each: int) -> Predict:
    """Spherical k-means within each route; a question goes to the route of the nearest centroid."""
    vectors, owner = [], []
    for r in range(routes):
        own = np.ascontiguousarray(X[route == r])
        if len(own) == 0:
            continue
        count = max(1, min(each, len(own) // 3))
        cluster = faiss.Kmeans(X.shape[1], count, niter=10, spherical=True, seed=r, min_points_per_centroid=1)
        cluster.train(own)
        vectors.append(np.asarray(cluster.centroids))
        owner.append(np.full(count, r))
    return _nearest_owner(np.concatenate(vectors), np.concatenate(owner))


def logreg(log: Log) -> Predict:
    """Logistic regression on examples and liked questions."""
    X, route = log.liked
    model = LogisticRegression(C=10.0, max_iter=300).fit(X, route)
    return lambda Z: np.asarray(model.predict(Z))


def linucb(log: Log, *, ridge: float = 1.0) -> Predict:
    """Disjoint LinUCB's ridge regressions of the reward a route, examples counting as rewards; greedy when scored."""
    D = log.seed_vectors.shape[1]
    weights = []
    for r in range(log.routes):
        voted = log.route == r
        X = np.concatenate([log.seed_vectors, log.X[voted]])
        reward = np.concatenate([log.seed_route == r, log.up[voted]]).astype(np.float32)
        weights.append(np.linalg.solve(X.T @ X + ridge * np.eye(D, dtype=np.float32), X.T @ reward))
    W = np.stack(weights, axis=1)
    return lambda Z: np.asarray((Z @ W).argmax(axis=1))


PEERS: Mapping[str, Learner] = {
    "rocchio": rocchio,
    "lvq": lvq,
    "ema": ema,
    "knn": knn,
    "kmeans": kmeans,
    "logreg": logreg,
    "linucb": linucb,
}
