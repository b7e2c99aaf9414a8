"""Whether a query is split: what the tagger proposes, what can stand alone, what the split gains."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import re2

from router.apart import is_doubted, known_apart, state_between
from router.centroids import Matrix, unit_rows
from router.decision import Boundary, SplitEvidence
from router.scoring import Router
from router.units import Spans, Units, route_units, utility

if TYPE_CHECKING:
    from router.encoder import Encoding

Encode = Callable[[Sequence[str]], Sequence["Encoding"]]

MOST_SEGMENTS = 6
_CONTENT_WORDS = 2
_KNOWN, _LEAST_KNOWN = 0.27, 0.6  # so much over the similarity under which a query is abstained from
_SURE = 0.9
_WORD = re2.compile(r"[\pL\pN]+(?:['\x{2019}][\pL\pN]+)*")
_FUNCTION_WORDS = frozenset(
    re2.findall(
        r"\S+",
        "a about again also am an and any are as at be been but by can could did do does for from had has have he "
        "her his how i i'd i'll i'm i've if in is it it's its just let's may me might my no not of off ok okay on "
        "one or our out please she should so some such thank thanks that that's the their them then there these "
        "they this those to too up us was we were what what's when where which who why will with would you your ",
    )
)

# "who are you" and "do you have an age" are whole requests, "how about tomorrow" is none.
_REQUEST = re2.compile(
    r"(?i)^(?:who|what|which|where|when|why|how|do|does|did|is|are|was|were|can|could|will|would|should|may|have|has)"
    r"(?:'[a-z]+)? [^.?!]*\b(?:you|your|i|my|me|we|our|that|this)\b"
)
_NO_REQUEST = re2.compile(r"(?i)\babout\b")


def consider_split(
    router: Router, query: str, encoding: "Encoding", whole: Units, *, encode: Encode, explore: bool
) -> tuple[Units, SplitEvidence]:
    """The segments if splitting raises the expected utility, else the whole query; and why.

    Where three segments or more do not pay, the least sure boundary is given up and the rest is weighed again.
    """
    found, problem = _boundaries(router, query, encoding)
    spans: Spans = ()
    if not problem:
        found = _heed_centroids(router, query, encoding, found, encode=encode)
        spans, problem = _propose(query, found, threshold=router.parameters.split_threshold)
    if problem:
        return whole, unsplit(problem, boundaries=found, whole=utility(whole))
    units, evidence = _considered(router, query, whole, spans, found, encode=encode, explore=explore)
    while units is whole and len(spans) > 2:
        spans, problem = _propose(query, found, threshold=float(np.nextafter(certainty(found, spans), 1.0)))
        if problem:
            break
        units, again = _considered(router, query, whole, spans, found, encode=encode, explore=explore)
        evidence = evidence if units is whole else again
    return units, evidence


def _considered(
    router: Router,
    query: str,
    whole: Units,
    spans: Spans,
    found: tuple[Boundary, ...],
    *,
    encode: Encode,
    explore: bool,
) -> tuple[Units, SplitEvidence]:
    """The spans as segments if that pays, else the whole query."""
    parts, problem = _standing(router, query, spans, encode=encode, explore=explore), ""
    if parts is None:
        problem = "The parts cannot stand alone: too few words of their own."
    elif "abstained" in parts.causes and certainty(found, parts.spans) < _SURE:
        problem = "A part is unlike everything that the routes know."
    else:
        parts = _merge(router, query, parts, explore=explore)
        if len(parts.spans) < 2:
            problem = f"All {len(spans)} parts go to {router.routes[parts.choices.route[0]]}."
    if parts is None or problem:
        return whole, unsplit(problem, boundaries=found, whole=utility(whole))
    return _weigh(router, whole, parts, found)


def _boundaries(router: Router, query: str, encoding: "Encoding") -> tuple[tuple[Boundary, ...], str]:
    """Where the query might be split, or why nowhere."""
    from router.splitter import boundaries, can_split, is_read_whole

    if not can_split(router.version.splitter):
        return (), "This version has no splitter."
    if encoding.hidden is None or encoding.offsets is None:
        return (), "The query was encoded without what the splitter reads."
    if not is_read_whole(encoding, query):
        return (), "The query is longer than the encoder reads, and is left whole."
    found = boundaries(router.version.splitter, encoding, query)
    return found, "" if found else "There is nothing to split: it is a single word."


def _heed_centroids(
    router: Router, query: str, encoding: "Encoding", found: tuple[Boundary, ...], *, encode: Encode
) -> tuple[Boundary, ...]:
    """The boundaries, more probable where the splitter sees little and the centroids much."""
    from router.splitter import cut

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.stack([one.embedding for one in encode(texts)])

    threshold = router.parameters.split_threshold
    if not any(is_doubted(boundary, threshold=threshold) for boundary in found):
        return found
    spans = cut(query, found, threshold=threshold)
    glance = partial(state_between, encoding)
    return known_apart(router, query, found, spans, threshold=threshold, glance=glance, embed=embed)


def _propose(query: str, found: tuple[Boundary, ...], *, threshold: float) -> tuple[Spans, str]:
    """The spans that are worth embedding, or why there are none."""
    from router.splitter import cut

    spans = cut(query, found, threshold=threshold)
    if len(spans) < 2:
        highest = max(boundary.probability for boundary in found)
        return (), f"No boundary reached {threshold:.2f}; the highest was {highest:.2f}."
    if len(spans) > MOST_SEGMENTS:
        return (), f"{len(spans)} parts were proposed; more than {MOST_SEGMENTS} are not split."
    return spans, ""


def _standing(router: Router, query: str, spans: Spans, *, encode: Encode, explore: bool) -> Units | None:
    """The parts, each with what cannot stand alone joined to it, scored; None if only one is left."""
    parts = _routed(router, query, spans, encode=encode, explore=explore)
    # A short part that the routes know nearly word by word needs no more words: "who are you".
    near = max(_LEAST_KNOWN, router.parameters.abstain_below + _KNOWN)
    known = parts.choices.ruled | (parts.choices.scores.best_similarity >= near)
    joined = join_weak(query, spans, known=known.tolist())
    if len(joined) < 2:
        return None
    return parts if joined == spans else _routed(router, query, joined, encode=encode, explore=explore)


def _routed(router: Router, query: str, spans: Spans, *, encode: Encode, explore: bool) -> Units:
    X = unit_rows(np.stack([one.embedding for one in encode([query[start:end] for start, end in spans])]))[0]
    return route_units(router, query, spans, X, explore=explore)


def content_words(text: str) -> int:
    """How many words carry a meaning of their own; "and for tomorrow?" has one."""
    return sum(word.lower().replace("\u2019", "'") not in _FUNCTION_WORDS for word in _WORD.findall(text))


def _is_weak(text: str) -> bool:
    if content_words(text) >= _CONTENT_WORDS:
        return False
    return _REQUEST.search(text) is None or _NO_REQUEST.search(text) is not None


def join_weak(query: str, spans: Spans, *, known: Sequence[bool] = ()) -> Spans:
    """Join every span that cannot stand alone to the one before it, the first to the next.

    What has under two content words and is no request with a person in it cannot, unless it is ``known`` (one for each
    span; none: no span is).
    """
    joined: list[tuple[int, int]] = []
    weak_before = False
    for i, (start, end) in enumerate(spans):
        weak = _is_weak(query[start:end]) and not (known and known[i])
        if joined and (weak or weak_before):
            joined[-1] = (joined[-1][0], end)
            weak_before = weak_before and _is_weak(query[joined[-1][0] : end])
        else:
            joined.append((start, end))
            weak_before = weak
    return tuple(joined)


def _merge(router: Router, query: str, parts: Units, *, explore: bool) -> Units:
    """Neighbours that go to one route are answered together; their embedding is the direction of their mean."""
    groups = [list(group) for _, group in groupby(range(len(parts.spans)), key=lambda i: int(parts.choices.route[i]))]
    if len(groups) == len(parts.spans):
        return parts
    spans = tuple((parts.spans[group[0]][0], parts.spans[group[-1]][1]) for group in groups)
    X = unit_rows(np.stack([parts.X[group].mean(axis=0) for group in groups]))[0]
    return _merge(router, query, route_units(router, query, spans, X, explore=explore), explore=explore)


def certainty(boundaries: Sequence[Boundary], spans: Spans) -> float:
    """The chance that the query really has these segments: the least probable of the boundaries that part them."""
    least = 1.0
    for (_, end), (start, _) in pairwise(spans):
        least = min(least, max((b.probability for b in boundaries if end <= b.start <= start), default=0.0))
    return least


def _weigh(router: Router, whole: Units, parts: Units, found: tuple[Boundary, ...]) -> tuple[Units, SplitEvidence]:
    b = certainty(found, parts.spans)
    before, after = split_utilities(
        _settled(router, whole)[0],
        _settled(router, parts),
        a=int(whole.choices.route[0]),
        d=parts.choices.route,
        b=b,
        split_cost=router.parameters.split_cost,
    )
    n = len(parts.spans)
    compared = f"{after:.2f} in {n} parts against {before:.2f} whole, boundaries {b:.0%} sure."
    if after <= before:
        return whole, unsplit(f"Splitting gains nothing: {compared}", boundaries=found, whole=before, split=after)
    reason = f"Splitting pays: {compared}"
    return parts, SplitEvidence(boundaries=found, utility_whole=before, utility_split=after, reason=reason)


def split_utilities(
    U: npt.NDArray[np.float64], U_parts: Matrix, *, a: int, d: npt.NDArray[np.int64], b: float, split_cost: float
) -> tuple[float, float]:
    """Expected utility of the query unsplit and split.

    With chance b the query asks for several things; then each part is worth what its route makes of it, and the
    unsplit answer serves each part as well as its one route serves that part. Otherwise it asks for one thing, and
    each route is worth what it makes of the whole:

        unsplit = b mean_j U_j(a) + (1 - b) U(a)
        split   = b mean_j U_j(d_j) + (1 - b) mean_j U(d_j) - split_cost (m - 1)

    Args:
        U: (R,) utilities for the whole query.
        U_parts: (m, R) utilities for each segment, U_j.
        a: route of the whole query.
        d: (m,) routes of the segments.
        b: chance that the segments are real.
        split_cost: price of one further call in units of utility.
    """
    unsplit_utility = b * U_parts[:, a].mean() + (1 - b) * U[a]
    split_utility = b * U_parts[np.arange(len(d)), d].mean() + (1 - b) * U[d].mean() - split_cost * (len(d) - 1)
    return float(unsplit_utility), float(split_utility)


def _settled(router: Router, units: Units) -> Matrix:
    """Utilities (n, R); where a keyword named the route, those of a question whose route is certain."""
    rows = units.choices.utilities.copy()
    for row in np.flatnonzero(units.choices.ruled):
        start, end = units.spans[row]
        rows[row] = router.ruled_utilities(int(units.choices.route[row]), length=end - start)
    return rows


def unsplit(
    reason: str, *, whole: float, boundaries: tuple[Boundary, ...] = (), split: float | None = None
) -> SplitEvidence:
    """Evidence for leaving the query whole. The reason never quotes the query: it outlives the query's text."""
    return SplitEvidence(boundaries=boundaries, utility_whole=whole, utility_split=split, reason=reason)
