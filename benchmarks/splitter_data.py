"""Test and training queries of the splitter's benchmark, read from JSON lines and joined anew."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from learner.concatenate import SplitExample, join
from learner.connectors import CONNECTORS

# Families that no training in this benchmark sees: the test of unseen connectors is made of them.
HELD_OUT = ("further", "change", "more", "while")


@dataclass(frozen=True, slots=True)
class Query:
    """A query, the exact spans of its segments, and what each asks for (intent) and who answers it (domain)."""

    text: str
    spans: tuple[tuple[int, int], ...]
    intents: tuple[str, ...]
    domains: tuple[str, ...] = ()
    joined: bool = False

    @property
    def parts(self) -> list[str]:
        """The text of each segment."""
        return [self.text[start:end] for start, end in self.spans]


def read_queries(path: Path, *, split: str, limit: int | None = None, label: str = "domain") -> list[Query]:
    """Read one split of a file. Rows out of scope, and test rows that its train part holds too, are left out."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in data.decode().split("\n") if line.strip()]
    parts = {row.get("split") for row in rows}
    wanted = {split} | ({"dev"} if split == "val" else set())
    chosen = [row for row in rows if (row.get("split") in wanted or parts == {None}) and not row.get("oos")]
    return [_query(row, label) for row in chosen if split == "train" or not row.get("seen_in_train")][:limit]


def as_examples(queries: Sequence[Query]) -> list[SplitExample]:
    """The queries as training examples."""
    return [
        SplitExample(
            text=query.text,
            starts=tuple(start for start, _ in query.spans[1:]),
            ends=tuple(end for _, end in query.spans[:-1]),
        )
        for query in queries
    ]


def pools(queries: Sequence[Query]) -> dict[str, list[str]]:
    """All segments by intent."""
    found: dict[str, list[str]] = {}
    for query in queries:
        for intent, part in zip(query.intents, query.parts, strict=True):
            found.setdefault(intent, []).append(part)
    return found


def rejoined(queries: Sequence[Query], *, connectors: Sequence[str] | None, seed: int) -> list[Query]:
    """The queries of several segments joined anew: by nothing but a blank, or by one of the connectors."""
    rng = np.random.default_rng(seed)
    made = []
    for query in queries:
        if len(query.spans) < 2:
            continue
        between = [with_blanks(connectors, rng) if connectors else " " for _ in query.spans[1:]]
        example = join(query.parts, between)
        spans = tuple(zip((0, *example.starts), (*(example.ends or ()), len(example.text)), strict=True))
        made.append(Query(example.text, spans, query.intents, query.domains, joined=True))
    return made


def held_out_connectors() -> list[str]:
    """The connectors that no training saw."""
    return [connector for family in HELD_OUT for connector in CONNECTORS[family]]


def with_blanks(connectors: Sequence[str], rng: np.random.Generator) -> str:
    """One of the connectors behind a mark or not, with the blanks around it."""
    lead = (" ", ", ", ". ")[int(rng.integers(3))]
    tail = (" ", ", ")[int(rng.integers(2))]
    return lead + connectors[int(rng.integers(len(connectors)))] + tail


def _query(row: dict[str, Any], label: str) -> Query:
    text = row["text"]
    segments = row.get("segments") or [
        {"start": 0, "end": len(text), "intent": row.get("intent", ""), "domain": row.get(label, "")}
    ]
    return Query(
        text=text,
        spans=tuple((segment["start"], segment["end"]) for segment in segments),
        intents=tuple(str(segment.get("intent", "")) for segment in segments),
        domains=tuple(segment["domain"] for segment in segments if segment.get("domain")),
        joined=bool(row.get("connectors")),
    )
