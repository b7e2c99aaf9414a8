"""Training queries for the splitter, made from the fleet's own: queries of different routes joined in many ways."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from learner.connectors import CONNECTORS, LOOSE_WORDS, phrase

T = TypeVar("T")

_SHARE_ALONE, _SHARE_OF_THREE = 0.3, 0.3
_SHARE_BARE, _SHARE_PHRASE, _SHARE_LOOSE, _SHARE_COMMON, _SHARE_DOUBLED = 0.31, 0.22, 0.1, 0.22, 0.2
_KINDS = np.cumsum((_SHARE_BARE, _SHARE_PHRASE, _SHARE_LOOSE, _SHARE_COMMON))
_SHARE_HEARD = 0.3
_COMMON_FAMILIES = 4
_SHARE_ODD_NAME, _SHARE_FALSE_CONNECTOR = 0.15, 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitExample:
    """A query and where it is to be split.

    ``starts`` are the characters at which segments start, without the first; ``ends``, where known, are as many
    characters at which the segments before them end (None: not learned from). ``weight`` is how much it counts.
    """

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...] | None = None
    weight: float = 1.0


def concatenations(
    routed_queries: Mapping[str, Sequence[str]],
    *,
    count: int,
    seed: int,
    without: Collection[str] = (),
    heard: Sequence[str] = (),
) -> list[SplitExample]:
    """Join queries of different routes: one, two or three of them, with a connector between them or with none.

    Args:
        routed_queries: for each route, queries that it answers alone.
        count: how many examples to make.
        seed: of every draw; the same input gives the same examples.
        without: families of CONNECTORS that are not used.
        heard: connectors that the fleet's own users were heard to say.

    Returns:
        ``count`` examples, nearly a third of them single queries; none if there is no query at all.
    """
    pools = tuple(
        tuple(pool)
        for pool in (sorted({q.strip() for q in routed_queries[r]} - {""}) for r in sorted(routed_queries))
        if pool
    )
    if not pools:
        return []
    unused = {word for family in without for connector in CONNECTORS[family] for word in connector.split()}
    words = sorted({word for pool in pools for query in pool for word in query.split() if word.isalpha()} - unused)
    stock = _Stock(
        pools=pools,
        families=tuple(connectors for family, connectors in CONNECTORS.items() if family not in without),
        loose=tuple(word for word in LOOSE_WORDS if word not in unused),
        words=tuple(words) or ("it",),
        heard=tuple(heard),
        barred=tuple(f" {connector} " for family in without for connector in CONNECTORS[family]),
    )
    rng = np.random.default_rng(seed)
    return [_example(rng, stock) for _ in range(count)]


def join(parts: Sequence[str], connectors: Sequence[str]) -> SplitExample:
    """Join queries with the exact connectors (blanks included), remembering where each starts and ends."""
    text, starts, ends = parts[0], [], []
    for connector, part in zip(connectors, parts[1:], strict=True):
        ends.append(len(text))
        text += connector
        starts.append(len(text))
        text += part
    return SplitExample(text=text, starts=tuple(starts), ends=tuple(ends))


def joined(
    routed_queries: Mapping[str, Sequence[str]], *, count: int, connectors: Sequence[str], seed: int
) -> list[tuple[SplitExample, tuple[str, ...]]]:
    """Join queries of two or three different routes by nothing but these connectors, to judge and not to train.

    Returns:
        ``count`` examples, each with the routes of its parts in order; none if fewer than two routes have any query.
    """
    pools = {route: pool for route, asked in sorted(routed_queries.items()) if (pool := sorted({*asked} - {""}))}
    rng, names = np.random.default_rng(seed), list(pools)
    found = []
    for _ in range(count if len(names) > 1 else 0):
        wanted = 3 if len(names) > 2 and rng.random() < _SHARE_OF_THREE else 2
        routes = tuple(names[i] for i in rng.permutation(len(names))[:wanted])
        between = [_as_it_stands(rng, _draw(rng, connectors)) for _ in routes[1:]]
        found.append((join([_draw(rng, pools[route]) for route in routes], between), routes))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stock:
    """What examples are made of: queries by route, connectors by family and heard, loose words, all queries' words."""

    pools: Sequence[Sequence[str]]
    families: Sequence[Sequence[str]]
    loose: Sequence[str]
    words: Sequence[str]
    heard: Sequence[str]
    barred: Sequence[str]


def _example(rng: np.random.Generator, stock: _Stock) -> SplitExample:
    draw = rng.random()
    wanted = 1 if draw < _SHARE_ALONE else 3 if draw > 1 - _SHARE_OF_THREE else 2
    chosen = rng.permutation(len(stock.pools))[: min(wanted, len(stock.pools))]
    parts = [_roughened(rng, _draw(rng, stock.pools[i]), stock.words) for i in chosen]
    return join(parts, [_connector(rng, stock) for _ in parts[1:]])


def _roughened(rng: np.random.Generator, query: str, words: Sequence[str]) -> str:
    """Now and then a name of odd words, or a connector where nothing is to be split, inside a query."""
    parts = query.split(" ")
    if len(parts) > 3 and rng.random() < _SHARE_ODD_NAME:
        at = int(rng.integers(2, len(parts) + 1))
        parts[at:at] = [_draw(rng, words) for _ in range(int(rng.integers(1, 5)))]
    if len(parts) > 3 and rng.random() < _SHARE_FALSE_CONNECTOR:
        at = int(rng.integers(2, len(parts)))
        parts[at:at] = [_draw(rng, ("and", "and", ",", "and then", "or", "also", "&"))]
    return " ".join(parts)


def _connector(rng: np.random.Generator, stock: _Stock) -> str:
    """One connector with its blanks; parts of allowed ones can still make up a barred one, which is drawn anew."""
    while True:
        found = _any_connector(rng, stock)
        if not any(barred in f" {found} " for barred in stock.barred):
            return found


def _any_connector(rng: np.random.Generator, stock: _Stock) -> str:
    """None, one heard, a phrase, loose words, or one or two known ones behind a mark."""
    if stock.heard and rng.random() < _SHARE_HEARD:
        return _between_blanks(rng, _draw(rng, stock.heard))
    kind = int(np.searchsorted(_KINDS, rng.random(), side="right"))
    if kind == 0:
        return " "
    if kind == 1:
        return _between_blanks(rng, phrase(rng, loose=stock.loose) or ",")
    if kind == 2:
        source = stock.words if rng.random() < 0.3 else stock.loose
        return _between_blanks(rng, " ".join(_draw(rng, source) for _ in range(int(rng.integers(1, 5)))))
    words = _draw(rng, _draw(rng, stock.families[:_COMMON_FAMILIES] if kind == 3 else stock.families))
    if words[-1].isspace():
        return words
    if rng.random() < _SHARE_DOUBLED:
        words += f" {_draw(rng, _draw(rng, stock.families)).strip()}"
    return _between_blanks(rng, words)


def _as_it_stands(rng: np.random.Generator, words: str) -> str:
    """Marks bring their blanks along, words get some."""
    return words if words[-1].isspace() else _between_blanks(rng, words)


def _between_blanks(rng: np.random.Generator, words: str) -> str:
    lead = _draw(rng, (" ", " ", " ", ", ", ", ", " , ", ". ", "? ", "; "))
    return lead + words + _draw(rng, (" ", " ", " ", ", "))


def _draw(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]
