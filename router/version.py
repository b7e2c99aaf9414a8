"""A router version: everything that decides, as immutable values. Production loads it, the learner makes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt

from router.fleet import Fleet

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Centroids:
    """Prototype embeddings and who owns them.

    ``vectors`` is (M, D), unit rows; ``owners`` is (M, R), rows are posteriors over ``RouterParameters.routes`` and sum
    to one; ``mass`` is (M,), how many queries each centroid stands for. ``values``, where learned, is (M, R): the
    chance that route d pleases near centroid k whatever the owner; it lets several routes serve one domain, and
    replaces the value derived from ``owners`` and ``success`` in the utility.
    """

    vectors: Array
    owners: Array
    mass: Array
    values: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterParameters:
    """The numbers beside the centroids. Tuples over routes follow the order of ``routes`` (R of them).

    ``success`` is s_d, the chance that route d answers well what is its own; ``wrong_route_success`` is u, the chance
    that a wrong route's answer pleases. ``cost`` (US dollars a query) and ``latency_ms`` are (R, B) medians by length
    bin, bins split at ``length_bins`` characters. A query as close as ``reask_similarity`` (cosine) to the previous one
    of its session is a re-ask: the route that was just tried is left out when another reaches ``reask_floor``.
    """

    routes: tuple[str, ...]
    success: tuple[float, ...]
    cost: tuple[tuple[float, ...], ...]
    latency_ms: tuple[tuple[float, ...], ...]
    length_bins: tuple[int, ...] = (60, 240)
    wrong_route_success: float = 0.15
    beta: float = 40.0
    neighbours: int = 8
    cost_weight: float = 0.0
    latency_weight: float = 0.05
    abstain_below: float = 0.25
    explore_kappa: float = 0.2
    session_margin: float = 0.2
    reask_similarity: float = 0.92
    reask_floor: float = 0.05
    split_threshold: float = 0.3
    split_cost: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterVersion:
    """One loaded version. ``number`` is 0 and ``fingerprint`` empty while it is a candidate that was never published.

    ``splitter`` holds the splitter's arrays by name (see ``router/splitter.py``). The whole fleet is part of the
    version, so that a rollback brings back its rules, models and prices too.
    """

    fleet: Fleet
    parameters: RouterParameters
    centroids: Centroids
    splitter: Mapping[str, Array]
    encoder: str
    number: int = 0
    fingerprint: str = ""
    training: Mapping[str, str] = field(default_factory=dict)

    @property
    def learned_until(self) -> datetime | None:
        """Up to when what it learned was read, by itself or by the version that a changed fleet was applied to."""
        read = self.training.get("watermark") or self.training.get("learned_until")
        return datetime.fromisoformat(read) if read else None


def rules_only_version(fleet: Fleet) -> RouterVersion:
    """A version without a single centroid: keywords and pins decide, everything else goes to the fallback."""
    R = len(fleet.routes)
    parameters = RouterParameters(
        routes=fleet.names, success=(1.0,) * R, cost=((0.0,),) * R, latency_ms=((0.0,),) * R, length_bins=()
    )
    nothing = np.zeros((0, R), dtype=np.float32)
    centroids = Centroids(
        vectors=np.zeros((0, 1), dtype=np.float32), owners=nothing, mass=np.zeros(0, dtype=np.float32)
    )
    return RouterVersion(fleet=fleet, parameters=parameters, centroids=centroids, splitter={}, encoder="")
