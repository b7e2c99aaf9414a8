"""Routes that stay as they are: the incumbent's centroids go into the candidate unchanged."""

from collections.abc import Sequence

import numpy as np

from router.version import Array, Centroids


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
