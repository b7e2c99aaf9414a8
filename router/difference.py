"""What changed between two router versions."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from router.decide import decide_many
from router.scoring import Router
from router.version import Array, RouterVersion

# A night moves no centroid further, so what is further from everything in the other version is new or gone.
SAME_WITHIN_DEGREES = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteMovement:
    """How one route's centroids moved. ``degrees`` is the mean angle between partners, weighted by mass.

    ``added`` and ``removed`` count centroids without a partner in the other version; ``won`` and ``lost`` those whose
    partner belongs to another route there.
    """

    route: str
    degrees: float
    centroids_before: int
    centroids_after: int
    added: int
    removed: int
    won: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterChange:
    """One number, or one tuple of numbers, that is different; None where the version does not have it."""

    name: str
    before: object
    after: object


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionDifference:
    """What changed from version ``before`` to version ``after``. ``movements`` is empty where encoders differ."""

    before: int
    after: int
    movements: tuple[RouteMovement, ...]
    parameters: tuple[ParameterChange, ...]
    routes_added: tuple[str, ...]
    routes_removed: tuple[str, ...]
    encoder_changed: bool
    splitter_changed: bool
    fleet_changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedDecision:
    """A query that goes elsewhere, with the probability that each version gave to its choice, and why in a sentence."""

    text: str
    before: str
    after: str
    probability_before: float
    probability_after: float
    why: str = ""


def compare(a: RouterVersion, b: RouterVersion) -> VersionDifference:
    """What changed from a to b: centroids per route, parameters, routes, splitter."""
    same_space = a.encoder == b.encoder and a.centroids.vectors.shape[1] == b.centroids.vectors.shape[1]
    before, after = set(a.parameters.routes), set(b.parameters.routes)
    return VersionDifference(
        before=a.number,
        after=b.number,
        movements=_movements(a, b) if same_space else (),
        parameters=_parameter_changes(a, b),
        routes_added=tuple(sorted(after - before)),
        routes_removed=tuple(sorted(before - after)),
        encoder_changed=a.encoder != b.encoder,
        splitter_changed=not _same_arrays(a, b),
        fleet_changed=a.fleet != b.fleet,
    )


def changed_decisions(
    a: RouterVersion, b: RouterVersion, texts: Sequence[str], X: npt.ArrayLike
) -> list[ChangedDecision]:
    """The queries that a and b send to different routes, exploration, sessions and splits left aside.

    Args:
        a: the earlier version.
        b: the later version.
        texts: n queries.
        X: (n, D) their embeddings by the encoder of both.
    """
    if not texts:
        return []
    chosen = [decide_many(Router(version), X, texts=texts, explore=False) for version in (a, b)]
    reasons = _Reasons(a, b)
    changed = []
    for row, text in enumerate(texts):
        i, j = int(chosen[0].route[row]), int(chosen[1].route[row])
        before, after = a.parameters.routes[i], b.parameters.routes[j]
        if before != after:
            p, q = float(chosen[0].probabilities[row, i]), float(chosen[1].probabilities[row, j])
            changed.append(
                ChangedDecision(
                    text=text,
                    before=before,
                    after=after,
                    probability_before=p,
                    probability_after=q,
                    why=reasons.of(np.asarray(X, dtype=np.float32)[row]),
                )
            )
    return changed


class _Reasons:
    """Why a query goes elsewhere: what became of the centroid that it is nearest to."""

    def __init__(self, a: RouterVersion, b: RouterVersion) -> None:
        self._vectors = a.centroids.vectors, b.centroids.vectors
        self._owners = _owners(a), _owners(b)
        self._floors = a.parameters.abstain_below, b.parameters.abstain_below
        self._angle, self._partner = partners(b.centroids.vectors, a.centroids.vectors)

    def of(self, x: Array) -> str:
        """One sentence for a query with embedding x (D,)."""
        cosines = [vectors @ x / max(float(np.linalg.norm(x)), 1e-12) for vectors in self._vectors]
        if not all(len(c) for c in cosines):
            return "One of the versions has no centroids."
        i, j = (int(c.argmax()) for c in cosines)
        near_before, near_after = (float(c.max()) for c in cosines)
        if (near_before < self._floors[0]) != (near_after < self._floors[1]):
            known = "is now like" if near_after >= self._floors[1] else "is no more like"
            return f"It {known} what is known: cosine {near_after:.2f}, before {near_before:.2f}."
        partner, owner = int(self._partner[j]), self._owners[1][j]
        if self._angle[j] > SAME_WITHIN_DEGREES:
            return f"A new centroid of {owner} is nearest: cosine {near_after:.2f}, before {near_before:.2f}."
        if self._owners[0][partner] != owner:
            return f"Its nearest centroid went from {self._owners[0][partner]} to {owner}."
        if partner != i:
            return f"A centroid of {owner} came nearer by {self._angle[j]:.1f} degrees: cosine {near_after:.2f}."
        return "Its nearest centroid is the same; those around it, or success, cost and latency, tip the scales."


def _owners(version: RouterVersion) -> npt.NDArray[np.str_]:
    names: npt.NDArray[np.str_] = np.array(version.parameters.routes)
    owners: npt.NDArray[np.str_] = names[version.centroids.owners.argmax(axis=1)]
    return owners


def _movements(a: RouterVersion, b: RouterVersion) -> tuple[RouteMovement, ...]:
    owner_a, owner_b = _owners(a), _owners(b)
    angle_a, partner_a = partners(a.centroids.vectors, b.centroids.vectors)
    angle_b, partner_b = partners(b.centroids.vectors, a.centroids.vectors)
    found_a, found_b = angle_a <= SAME_WITHIN_DEGREES, angle_b <= SAME_WITHIN_DEGREES
    # Partners exist only where the other version has centroids at all; elsewhere nothing is found.
    elsewhere_a = found_a & (owner_b[partner_a] != owner_a) if len(owner_b) else found_a
    elsewhere_b = found_b & (owner_a[partner_b] != owner_b) if len(owner_a) else found_b
    movements = []
    for route in sorted({*a.parameters.routes, *b.parameters.routes}):
        mine_a, mine_b = owner_a == route, owner_b == route
        stayed = mine_b & found_b
        mass = b.centroids.mass[stayed]
        moved = float(np.average(angle_b[stayed], weights=mass)) if mass.sum() > 0 else 0.0
        movements.append(
            RouteMovement(
                route=route,
                degrees=moved,
                centroids_before=int(mine_a.sum()),
                centroids_after=int(mine_b.sum()),
                added=int((mine_b & ~found_b).sum()),
                removed=int((mine_a & ~found_a).sum()),
                won=int((mine_b & elsewhere_b).sum()),
                lost=int((mine_a & elsewhere_a).sum()),
            )
        )
    return tuple(movements)


def partners(V: Array, W: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """For each row of V the nearest row of W: angle in degrees and its number; 180 degrees where W is empty."""
    if len(W) == 0:
        return np.full(len(V), 180.0), np.zeros(len(V), dtype=np.int64)
    cosines = V.astype(np.float64) @ W.astype(np.float64).T
    partner = cosines.argmax(axis=1)
    # The chord is exact for small angles, where the cosine of float32 vectors is not.
    chord = np.linalg.norm(V.astype(np.float64) - W[partner], axis=1)
    return np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1.0))), partner


def _parameter_changes(a: RouterVersion, b: RouterVersion) -> tuple[ParameterChange, ...]:
    changes = []
    for field in fields(a.parameters):
        before, after = getattr(a.parameters, field.name), getattr(b.parameters, field.name)
        if field.name in ("success", "cost", "latency_ms"):
            changes += _by_route(
                field.name,
                dict(zip(a.parameters.routes, before, strict=True)),
                dict(zip(b.parameters.routes, after, strict=True)),
            )
        elif field.name != "routes" and before != after:
            changes.append(ParameterChange(name=field.name, before=before, after=after))
    return tuple(changes)


def _by_route(name: str, before: dict[str, object], after: dict[str, object]) -> list[ParameterChange]:
    return [
        ParameterChange(name=f"{name}[{route}]", before=before.get(route), after=after.get(route))
        for route in sorted({*before, *after})
        if before.get(route) != after.get(route)
    ]


def _same_arrays(a: RouterVersion, b: RouterVersion) -> bool:
    return set(a.splitter) == set(b.splitter) and all(np.array_equal(a.splitter[k], b.splitter[k]) for k in a.splitter)
