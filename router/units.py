"""What is routed: a whole query or its segments, scored and chosen for together."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from router.choice import Choices, choose
from router.decision import Cause
from router.scoring import Router

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """The whole query or its segments, n of them: character spans, unit embeddings (n, D), choices and causes."""

    spans: Spans
    X: npt.NDArray[np.float32]
    choices: Choices
    causes: tuple[Cause, ...]


def route_units(router: Router, query: str, spans: Spans, X: npt.NDArray[np.float32], *, explore: bool) -> Units:
    """Score the spans of a query by their unit embeddings X (n, D) and choose for each, keyword rules first."""
    texts = [query[start:end] for start, end in spans]
    scores = router.score(X, lengths=[len(text) for text in texts])
    choices = choose(router, scores, named=[router.rules.matches(text) for text in texts], explore=explore)
    causes: list[Cause] = ["centroid"] * len(spans)
    for row in range(len(spans)):
        if choices.ruled[row]:
            causes[row] = "keyword"
        elif choices.abstained[row]:
            causes[row] = "abstained"
    return Units(spans=spans, X=X, choices=choices, causes=tuple(causes))


def settle(units: Units, route: int, *, cause: Cause) -> Units:
    """The same whole query, sent to this route for certain."""
    propensities = np.zeros_like(units.choices.propensities)
    propensities[0, route] = 1.0
    choices = replace(units.choices, route=np.array([route]), propensities=propensities)
    return replace(units, choices=choices, causes=(cause,))


def utility(units: Units) -> float:
    """Utility of the first unit's chosen route."""
    return float(units.choices.utilities[0, units.choices.route[0]])
