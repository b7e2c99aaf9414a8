"""A changed fleet applied to a version that has learned: what users taught stays, what the operator wrote counts."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from learner.first_version import FleetEncoder, first_parameters, first_splitter, seed_centroids
from learner.model_fleet import carried_values, first_values
from learner.seeds import SAME, Seeds, embed_seeds, seed_posterior
from learner.settings import LearnerSettings
from router.fleet import Fleet
from router.version import Array, Centroids, RouterVersion

T = TypeVar("T")


def apply_fleet(
    version: RouterVersion, fleet: Fleet, *, encoder: FleetEncoder, settings: LearnerSettings | None = None
) -> RouterVersion:
    """Apply a changed fleet to a version: routes that stay keep what they learned, changed examples count at once.

    An example that is new, of a new route or of one that stays, becomes a centroid; one that was taken out is none any
    more, and one that moved is its new route's. What was learned beside a changed example follows it by the weight it
    has there, exp(beta (cos - 1)); everything else stays as it is. Centroids of removed routes pass to whoever else
    owned a share of them. A version without a splitter gets one as soon as there are examples to make it of.
    """
    settings = settings or LearnerSettings()
    seeds = embed_seeds(fleet, encoder=encoder)
    first = first_parameters(fleet, seeds, settings=settings)
    old = {name: i for i, name in enumerate(version.parameters.routes)}
    columns = [old.get(name, -1) for name in fleet.names]
    parameters = replace(
        version.parameters,
        routes=fleet.names,
        abstain_below=version.parameters.abstain_below if version.learned_until else first.abstain_below,
        success=_carried(version.parameters.success, first.success, fleet.names, old),
        cost=_carried(version.parameters.cost, first.cost, fleet.names, _equally_priced(version.fleet, fleet, old)),
        latency_ms=_carried(version.parameters.latency_ms, first.latency_ms, fleet.names, old),
        cost_weight=fleet.cost_weight,
    )
    before = embed_seeds(version.fleet, encoder=encoder)
    changed = replace(
        version,
        fleet=fleet,
        parameters=parameters,
        centroids=_with_examples(
            _reordered(version.centroids, columns), before, seeds, columns, beta=parameters.beta, settings=settings
        ),
        splitter=version.splitter or first_splitter(fleet, encoder=encoder, seed=settings.seed, settings=settings),
        number=0,
        fingerprint="",
        training={
            "made_from": "fleet",
            "learned_by": str(version.number),
            "learned_until": version.learned_until.isoformat() if version.learned_until else "",
        },
    )
    if not fleet.of_models:
        return changed
    if version.centroids.values is None:
        return first_values(changed, dimension=encoder.dimension)
    return replace(changed, centroids=carried_values(version.centroids, columns))


def _with_examples(
    learned: Centroids, before: Seeds, now: Seeds, columns: list[int], *, beta: float, settings: LearnerSettings
) -> Centroids:
    """The centroids with the examples of ``now`` in place of those of ``before``, where the two differ.

    Args:
        learned: owners are over the routes of ``now``.
        before: the old fleet's examples.
        now: the new fleet's.
        columns: for each route of ``now`` its position in ``before``, -1 for a new one.
        beta: how sharply a query prefers its nearest centroids.
        settings: of the learner, for how surely an example is filed under the right route.
    """
    was = np.array(columns, np.int64)[now.route]
    new = ~_contained(now.X, was, before.X, before.route)
    gone = ~_contained(before.X, before.route, now.X, was)
    touched = np.concatenate([now.X[new], before.X[gone]])
    stays = ~_near(learned.vectors, touched)
    declared = new | _near(now.X, before.X[gone])  # the same text may still be the example of another route
    examples = seed_centroids(
        now,
        seed_posteriors=seed_posterior(now, now.X, sharpness=settings.seed_sharpness),
        own_share=settings.example_confidence,
    )
    owners = learned.owners[stays]
    follows = ~_near(learned.vectors[stays], now.X)  # another example is the operator's word too
    owners[follows] = _drawn_along(learned.vectors[stays][follows], owners[follows], now, new, beta=beta)
    return Centroids(
        vectors=np.concatenate([learned.vectors[stays], examples.vectors[declared]]),
        owners=np.concatenate([owners, examples.owners[declared]]),
        mass=np.concatenate([learned.mass[stays], examples.mass[declared]]),
    )


def _drawn_along(vectors: Array, owners: Array, now: Seeds, new: npt.NDArray[np.bool_], *, beta: float) -> Array:
    """Owners (M, R) that give their nearest new example's route exp(beta (cos - 1)) of what they have.

    So far from it that its word would not reach, they give nothing; and however many lie around a new example, they do
    not outvote it: of a weight w at its place, w of it speaks for its route.
    """
    if len(vectors) == 0 or not new.any():
        return owners
    cosine = vectors @ now.X[new].T
    share = np.exp(beta * (cosine.max(axis=1) - 1)).clip(0, 1).astype(np.float32)[:, None]
    routes = np.eye(owners.shape[1], dtype=np.float32)[now.route[new][cosine.argmax(axis=1)]]
    return np.asarray((1 - share) * owners + share * routes, dtype=np.float32)


def _near(vectors: Array, examples: Array) -> npt.NDArray[np.bool_]:
    """Which of the vectors (n, D) are the same as one of the examples, (n,)."""
    if len(vectors) == 0 or len(examples) == 0:
        return np.zeros(len(vectors), bool)
    return np.asarray((vectors @ examples.T).max(axis=1) >= SAME)


def _contained(
    X: Array, route: npt.NDArray[np.int64], other: Array, other_route: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Which of the examples (n, D) are among the others with the same route, (n,)."""
    if len(X) == 0 or len(other) == 0:
        return np.zeros(len(X), bool)
    return np.asarray(((X @ other.T >= SAME) & (route[:, None] == other_route)).any(axis=1))


def _reordered(centroids: Centroids, columns: list[int]) -> Centroids:
    """Centroids with owners over other routes: ``columns`` names each one's old column, -1 for a new route."""
    owners = np.stack(
        [centroids.owners[:, c] if c >= 0 else np.zeros(len(centroids.owners), np.float32) for c in columns], axis=1
    )
    owned = owners.sum(axis=1) > 0.05
    owners = owners[owned]
    return Centroids(
        vectors=centroids.vectors[owned],
        owners=(owners / owners.sum(axis=1, keepdims=True)).astype(np.float32),
        mass=centroids.mass[owned],
    )


def _equally_priced(before: Fleet, now: Fleet, position: dict[str, int]) -> dict[str, int]:
    """The positions of the routes whose prices have not changed: what the others were seen to cost is past."""
    prices = {route.name: route.prices for route in before.routes}
    return {route.name: position[route.name] for route in now.routes if prices.get(route.name) == route.prices}


def _carried(old: tuple[T, ...], new: tuple[T, ...], names: tuple[str, ...], position: dict[str, int]) -> tuple[T, ...]:
    return tuple(old[position[name]] if name in position else fresh for name, fresh in zip(names, new, strict=True))
