"""Training queries for the splitter, made from the fleet's own: queries of different routes joined in many ways."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

# What people say between two requests, by family; a benchmark leaves a family out and tests on it.
CONNECTORS: Mapping[str, tuple[str, ...]] = {
    "mark": (". ", "? ", ", ", " , ", "; ", " ; ", "! ", " - ", " / ", " | ", "... ", "\n", ": "),
    "and": ("and", "&", "and please", "and can you", "or", "but"),
    "also": ("also", "and also", "too, and", "also please", "as well as", "plus", "along with", "together with"),
    "then": ("then", "and then", "after that", "next", "and next", "afterwards", "once that is done", "when done"),
    "aside": ("by the way", "btw", "oh and", "oh", "ah and", "and hey", "hey", "so", "well", "um", "ok and", "ok"),
    "further": ("additionally", "furthermore", "besides", "besides that", "moreover", "apart from that", "in addition"),
    "change": ("on another note", "separately", "changing the subject", "something else", "unrelated, but", "anyway"),
    "more": ("one more thing", "another question", "another thing", "i also need to know", "last thing", "and finally"),
    "while": ("while you are at it", "while i have you", "in the meantime", "before i forget", "at the same time"),
    "order": ("first", "second", "secondly", "third", "lastly", "finally", "last but not least", "1)", "2.", "-"),
}
_SHARE_ALONE = 0.3
_SHARE_OF_THREE = 0.3
_SHARE_BARE = 0.3


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
    routed_queries: Mapping[str, Sequence[str]], *, count: int, seed: int, without: Collection[str] = ()
) -> list[SplitExample]:
    """Join queries of different routes: one, two or three of them, with a connector between them or with none.

    Args:
        routed_queries: for each route, queries that it answers alone.
        count: how many examples to make.
        seed: of every draw; the same input gives the same examples.
        without: families of CONNECTORS that are not used.

    Returns:
        ``count`` examples, nearly a third of them single queries; none if there is no query at all.
    """
    pools = [
        pool for pool in (sorted({q.strip() for q in routed_queries[r]} - {""}) for r in sorted(routed_queries)) if pool
    ]
    families = [CONNECTORS[name] for name in CONNECTORS if name not in without]
    rng = np.random.default_rng(seed)
    return [_example(rng, pools, families) for _ in range(count)] if pools else []


def join(parts: Sequence[str], connectors: Sequence[str]) -> SplitExample:
    """Join queries with the exact connectors (blanks included), remembering where each starts and ends."""
    text, starts, ends = parts[0], [], []
    for connector, part in zip(connectors, parts[1:], strict=True):
        ends.append(len(text))
        text += connector
        starts.append(len(text))
        text += part
    return SplitExample(text=text, starts=tuple(starts), ends=tuple(ends))


def _example(
    rng: np.random.Generator, pools: Sequence[Sequence[str]], families: Sequence[Sequence[str]]
) -> SplitExample:
    draw = rng.random()
    wanted = 1 if draw < _SHARE_ALONE else 3 if draw > 1 - _SHARE_OF_THREE else 2
    chosen = rng.permutation(len(pools))[: min(wanted, len(pools))]
    parts = [pools[i][int(rng.integers(len(pools[i])))] for i in chosen]
    return join(parts, [_connector(rng, families) for _ in parts[1:]])


def _connector(rng: np.random.Generator, families: Sequence[Sequence[str]]) -> str:
    """One connector with its blanks; now and then two families in a row, with a comma or a stop before them."""
    if rng.random() < _SHARE_BARE or not families:
        return " "
    words = _draw(rng, _draw(rng, families))
    if words[-1].isspace():
        return words
    if rng.random() < 0.2:
        words += f" {_draw(rng, _draw(rng, families)).strip()}"
    lead = _draw(rng, (" ", " ", " ", ", ", ", ", " , ", ". ", "? ", "; "))
    tail = _draw(rng, (" ", " ", " ", ", "))
    return lead + words + tail


def _draw(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]
