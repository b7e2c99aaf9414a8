"""How a new splitter fares beside the one that serves, on every kind of query, down to the routes that are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from learner.concatenate import SplitExample, joined
from learner.connectors import CONNECTORS, FOR_JUDGING
from router.decide import Router, decide_by_itself
from router.encoder import Encoding
from router.splitter import cut
from router.version import Array, RouterVersion

SINGLE, MINED, HEARD = "one thing", "split wrongly before", "joined as users were heard to"
_KNOWN, _STRANGE, _BARE = "joined by known connectors", "joined by strange connectors", "joined by nothing"
_THRESHOLD = 0.5
_AT_ONCE = 64  # hidden states are large: those of so many queries are held


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedQuery:
    """A held-out query of a kind, where it is to be cut, and its parts' routes in order (none: not known)."""

    kind: str
    example: SplitExample
    routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Shares of ``n`` queries of a kind, by the new splitter and by the one before.

    ``cut`` right: exactly the right segments; ``routes`` right: exactly the right routes are called in the right order
    (where they are not known: as cut). ``cut_changed`` and ``routes_changed`` count the queries that only one
    of the two splitters has right: so much chance there is in the difference.
    """

    kind: str
    n: int
    cut: float
    cut_before: float
    routes: float
    routes_before: float
    cut_changed: int = 0
    routes_changed: int = 0


def judged_queries(
    held: Mapping[str, Sequence[str]], *, mined: Sequence[SplitExample], heard: Sequence[str], count: int, seed: int
) -> list[JudgedQuery]:
    """Queries of every kind that there is: ``count`` of each but the mined ones.

    Args:
        held: single questions by route that train nothing.
        mined: queries of users that were split wrongly, and that train nothing either.
        heard: connectors that users were heard to say.
        count: how many of each kind are put together.
        seed: of what is drawn.
    """
    ways: dict[str, Sequence[str]] = {
        _KNOWN: [words for words_of in CONNECTORS.values() for words in words_of],
        _STRANGE: FOR_JUDGING,
        _BARE: (" ",),
    }
    ways |= {HEARD: heard} if heard else {}
    made = [
        JudgedQuery(kind=kind, example=example, routes=routes)
        for at, (kind, connectors) in enumerate(ways.items())
        for example, routes in joined(held, count=count, connectors=connectors, seed=seed + at)
    ]
    return [*_singles(held, count=count, seed=seed), *made, *(JudgedQuery(kind=MINED, example=one) for one in mined)]


def judge_splitter(
    arrays: Mapping[str, Array], incumbent: RouterVersion, queries: Sequence[JudgedQuery], *, encoder: Any
) -> tuple[Judged, ...]:
    """Compare ``arrays`` with the incumbent's splitter, by kind, all else being the incumbent's."""
    cuts, routes = np.zeros((2, len(queries)), bool), np.zeros((2, len(queries)), bool)
    parts = Remembering(encoder)
    routers = [Router(incumbent), Router(replace(incumbent, splitter=arrays))]
    with threadpool_limits(1):  # for one query at a time, waking other threads costs more than they save
        for start in range(0, len(queries), _AT_ONCE):
            some = queries[start : start + _AT_ONCE]
            encodings = encoder.encode([query.example.text for query in some], hidden=True)
            for row, (query, encoding) in enumerate(zip(some, encodings, strict=True), start):
                for which, router in enumerate(routers):
                    cuts[which, row], routes[which, row] = _right(router, query, encoding, parts)
    kinds = np.array([query.kind for query in queries])
    return tuple(_judged(kind, cuts[:, kinds == kind], routes[:, kinds == kind]) for kind in dict.fromkeys(kinds))


class Remembering:
    """An encoder that keeps embeddings by text: both splitters cut most queries into the same parts."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._kept: dict[str, Encoding] = {}

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Encodings without hidden states, in order."""
        new = sorted({text for text in texts if text not in self._kept})
        self._kept |= zip(new, self._encoder.encode(new), strict=True) if new else ()
        return [self._kept[text] for text in texts]


def _right(router: Router, query: JudgedQuery, encoding: Encoding, parts: Remembering) -> tuple[bool, bool]:
    """Whether a query is cut right, and whether the right routes are called."""
    example = query.example
    decision = decide_by_itself(router, example.text, encoding, encode=parts.encode)
    spans = cut(example.text, decision.split.boundaries, threshold=_THRESHOLD)
    right = tuple(start for start, _ in spans[1:]) == example.starts
    if right and example.ends is not None:
        right = tuple(end for _, end in spans[:-1]) == example.ends
    called = tuple(segment.route for segment in decision.segments)
    return right, called == query.routes if query.routes else right


def _judged(kind: str, cuts: npt.NDArray[np.bool_], routes: npt.NDArray[np.bool_]) -> Judged:
    cut_before, cut_now = cuts.mean(axis=1).tolist()
    before, now = routes.mean(axis=1).tolist()
    return Judged(
        kind=str(kind),
        n=cuts.shape[1],
        cut=cut_now,
        cut_before=cut_before,
        routes=now,
        routes_before=before,
        cut_changed=int((cuts[0] != cuts[1]).sum()),
        routes_changed=int((routes[0] != routes[1]).sum()),
    )


def _singles(held: Mapping[str, Sequence[str]], *, count: int, seed: int) -> list[JudgedQuery]:
    asked = [(route, text) for route in sorted(held) for text in held[route]]
    chosen = np.random.default_rng(seed).permutation(len(asked))[:count]
    return [
        JudgedQuery(kind=SINGLE, example=SplitExample(text=asked[i][1], starts=(), ends=()), routes=(asked[i][0],))
        for i in chosen
    ]
