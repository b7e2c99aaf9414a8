"""Routes that stay as they are: the incumbent's centroids, or its owners, go into the candidate unchanged."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from router.decide import Router
from router.version import Array, Centroids, RouterVersion

_FIRM = np.float32(0.9)


def keep_routes(candidate: Centroids, incumbent: Centroids, routes: Sequence[int]) -> Centroids:
    """Return the candidate with the incumbent's centroids of these routes (positions) instead of its own.

    A centroid is of the route that owns it most. Both have the same routes in the same order.
    """
    if not routes:
        return candidate
    theirs = ~np.isin(candidate.owners.argmax(axis=1), routes)
    ours = np.isin(incumbent.owners.argmax(axis=1), routes)

    def joined(new: Array, old: Array) -> Array:
        return np.concatenate([new[theirs], old[ours]])

    values = None
    if candidate.values is not None and incumbent.values is not None:
        values = joined(candidate.values, incumbent.values)
    return Centroids(
        vectors=joined(candidate.vectors, incumbent.vectors),
        owners=joined(candidate.owners, incumbent.owners),
        mass=joined(candidate.mass, incumbent.mass),
        values=values,
    )


def keep_owners(candidate: Centroids, incumbent: RouterVersion, routes: Sequence[int]) -> Centroids:
    """Return the candidate's centroids, owned as the incumbent decides wherever either sends to one of these routes.

    Centroids have moved since, so the incumbent is asked at their places. What it would choose there gets nearly all:
    its own doubts would be mixed once more with the neighbours', and questions would go elsewhere by that alone.
    """
    if not routes or len(incumbent.centroids.vectors) == 0:
        return candidate
    old = Router(incumbent).index.posterior(candidate.vectors)[0].astype(np.float32)
    chosen = np.eye(old.shape[1], dtype=np.float32)[old.argmax(axis=1)]
    touched = np.isin(candidate.owners.argmax(axis=1), routes) | np.isin(old.argmax(axis=1), routes)
    firm = _FIRM * chosen + (1 - _FIRM) * old
    return replace(candidate, owners=np.where(touched[:, None], firm, candidate.owners).astype(np.float32))
