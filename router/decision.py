"""What the router chose for one query, and why."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import numpy as np
import numpy.typing as npt

Policy = Literal["rules", "centroid", "cost_aware"]
Cause = Literal["keyword", "pinned", "centroid", "explored", "abstained", "session", "reasked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A route that was considered: p(d|x), its utility, and the best cosine among the centroids it owns."""

    route: str
    probability: float
    utility: float
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedSegment:
    """One segment and its route. ``start`` and ``end`` are characters of the query; ``embedding`` is (D,) float32.

    ``propensity`` is the exact probability with which the policy chose this route for this segment.
    """

    start: int
    end: int
    text: str
    route: str
    score: float
    margin: float
    propensity: float
    explored: bool
    cause: Cause
    candidates: tuple[Candidate, ...]
    embedding: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """A possible start of a new segment at character ``start``, with the splitter's probability.

    ``end`` is where the segment before it would end, if something stands between the two (None: right there).
    """

    start: int
    probability: float
    end: int | None = None

    @property
    def stop(self) -> int:
        """Where the segment before it would end."""
        return self.start if self.end is None else self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitEvidence:
    """Why the query was split or not. ``reason`` is one sentence; utilities are those with and without the split."""

    boundaries: tuple[Boundary, ...]
    utility_whole: float
    utility_split: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """What the second version would have done, without exploring: its first route; ``agrees`` when nothing differs."""

    router_version: int
    route: str
    agrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The decision for one query; ``segments`` has one element when the query was not split."""

    inference_id: UUID
    query: str
    segments: tuple[RoutedSegment, ...]
    split: SplitEvidence
    policy: Policy
    embedding: npt.NDArray[np.float32]
    encoder: str
    router_version: int
    fingerprint: str
    shadow: Shadow | None = None

    @property
    def route(self) -> str:
        """The route of the first segment: where an unsplit query goes."""
        return self.segments[0].route

    @property
    def destinations(self) -> tuple[tuple[int, int, str], ...]:
        """What is sent where: the spans with their routes, all that somebody who asked can notice."""
        return tuple((segment.start, segment.end, segment.route) for segment in self.segments)
