"""Two requests side by side, without a word between them: seen by where their parts lie among the centroids."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from router.decision import Boundary
from router.scoring import Router
from router.units import Spans
from router.version import Array

if TYPE_CHECKING:
    from router.encoder import Encoding

# Under this the splitter's word that nothing starts there is taken.
_LEAST = 0.04
# So many of the nearest centroids on either side must be one route's, another one on each side.
_APART = 3
# How much nearer to what is known the parts must be than the whole is, on average (cosine).
_NEARER = 0.02
# So much likelier are real boundaries to look like this than others (odds), by MixCLINC's validation part.
_ODDS = 100.0


def known_apart(
    router: Router,
    query: str,
    found: Sequence[Boundary],
    spans: Spans,
    *,
    threshold: float,
    glance: Callable[[int, int], Array],
    embed: Callable[[Sequence[str]], Array],
) -> tuple[Boundary, ...]:
    """Raise the likeliest boundary in each span that the splitter doubts, where its two sides are known and far apart.

    The splitter reads how people talk; where they say nothing between two requests, what the routes know tells more:
    the halves of one request lie farther from all questions than the whole does, two requests lie nearer each.

    Args:
        router: whose centroids tell.
        query: the text.
        found: its boundaries.
        spans: what is cut already.
        threshold: boundaries that reach it need no help.
        glance: about what lies between two characters, (D,), from the pass over the whole query: costs nothing. Only
            what lies apart at a glance is looked at.
        embed: gives embeddings (n, D) of texts.

    Returns:
        The boundaries, some of them more probable.
    """
    if router.index.neighbours < _APART:
        return tuple(found)
    likeliest = [one for span in spans if (one := _likeliest(found, span, threshold=threshold)) is not None]
    doubted = [one for one in likeliest if _differ_at_a_glance(router, *one, glance=glance)]
    if not doubted:
        return tuple(found)
    texts = [text for start, boundary, end in doubted for text in _sides(query, start, boundary, end)]
    cosines, ids = router.index.nearest(embed(texts))
    owners = router.version.centroids.owners[ids[:, :_APART]].argmax(axis=2)
    raised = {
        doubted[i][1].start
        for i in range(len(doubted))
        if _is_apart(cosines[3 * i : 3 * i + 3, 0], owners[3 * i], owners[3 * i + 1])
    }
    return tuple(replace(b, probability=_raised(b.probability)) if b.start in raised else b for b in found)


def is_doubted(boundary: Boundary, *, threshold: float) -> bool:
    """Whether the splitter's word on it is taken neither way."""
    return _LEAST <= boundary.probability < threshold


def state_between(encoding: "Encoding", start: int, end: int) -> Array:
    """The mean last state of the tokens between two characters, (D,): near to what they would be embedded as alone.

    Zeros where there are none, or the query was encoded without hidden states.
    """
    size, hidden, offsets = len(encoding.embedding), encoding.hidden, encoding.offsets
    if hidden is None or offsets is None:
        return np.zeros(size, np.float32)
    inside = (offsets[:, 0] >= start) & (offsets[:, 1] <= end)
    return np.asarray(hidden[inside, -size:].mean(axis=0)) if inside.any() else np.zeros(size, np.float32)


def _differ_at_a_glance(
    router: Router, start: int, boundary: Boundary, end: int, *, glance: Callable[[int, int], Array]
) -> bool:
    """Whether the centroid that is nearest to one side is another route's than the other side's."""
    sides = np.stack([glance(start, boundary.stop), glance(boundary.start, end)])
    one, other = router.version.centroids.owners[router.index.nearest(sides)[1][:, 0]].argmax(axis=1)
    return bool(one != other)


def _likeliest(
    found: Sequence[Boundary], span: tuple[int, int], *, threshold: float
) -> tuple[int, Boundary, int] | None:
    start, end = span
    inside = [b for b in found if start < b.stop and b.start < end]
    best = max(inside, key=lambda b: b.probability, default=None)
    return (start, best, end) if best is not None and is_doubted(best, threshold=threshold) else None


def _sides(query: str, start: int, boundary: Boundary, end: int) -> tuple[str, str, str]:
    return query[start : boundary.stop].rstrip(), query[boundary.start : end], query[start:end]


def _is_apart(cosines: Array, one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> bool:
    """Whether both sides are some route's, not the same one's, and better known than what they make together."""
    nearer = float(cosines[:2].mean()) >= float(cosines[2]) + _NEARER
    return nearer and len(set(one.tolist())) == 1 == len(set(other.tolist())) and one[0] != other[0]


def _raised(probability: float) -> float:
    odds = _ODDS * probability / (1 - probability)
    return odds / (1 + odds)
