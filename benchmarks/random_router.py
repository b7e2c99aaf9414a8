"""A router of random centroids: what a decision costs does not depend on what they stand for."""

import numpy as np

from router.fleet import Fleet, Route
from router.scoring import Router
from router.version import Centroids, RouterParameters, RouterVersion


def random_router(*, centroids: int, routes: int, dimension: int, rng: np.random.Generator) -> Router:
    """Return a router of so many centroids in R^dimension, owned by so many routes at random."""
    names = tuple(f"route-{i}" for i in range(routes))
    fleet = Fleet(fallback=names[0], routes=tuple(Route(name=name, utterances=("hello",)) for name in names))
    vectors = rng.normal(size=(centroids, dimension)).astype(np.float32)
    owners = rng.dirichlet(np.full(routes, 0.3), size=centroids)
    parameters = RouterParameters(
        routes=names,
        success=tuple(rng.uniform(0.6, 0.95, routes).tolist()),
        cost=tuple((c, 2 * c, 4 * c) for c in rng.uniform(1e-5, 1e-4, routes).tolist()),
        latency_ms=tuple((t, t, t) for t in rng.uniform(100, 2000, routes).tolist()),
        abstain_below=-0.5,
    )
    version = RouterVersion(
        fleet=fleet,
        parameters=parameters,
        centroids=Centroids(
            vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
            owners=(owners / owners.sum(axis=1, keepdims=True)).astype(np.float32),
            mass=np.ones(centroids, np.float32),
        ),
        splitter={},
        encoder="benchmark",
    )
    return Router(version)
