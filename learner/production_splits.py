"""What telemetry teaches about splits: missed and unneeded ones, and what users say between two requests."""

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from learner.concatenate import SplitExample
from learner.mining import MinedFailure, asked_in_part, lowered
from learner.window import Window
from router.fleet import Fleet

_MINED_WEIGHT = 2.0
_LONGEST_CONNECTOR = 8
# A connector is longer for as long as the next word is said by at least half of those who said the words so far.
_STAYING = 0.5
# Words that so large a share of ordinary questions hold, compared with the missed splits, are no connector.
_ORDINARY = 0.05
_HELD_OUT = 4
_MARKS = " \t\r\n.,;:?!-"


@dataclass(frozen=True, slots=True, kw_only=True)
class MinedSplit:
    """A query that was split wrongly, by whom (a session or person), and how it should have been.

    ``part`` are the characters of the part that was asked again by itself; None where the query asks for one thing.
    """

    example: SplitExample
    by: str
    part: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductionSplits:
    """What a window teaches: queries to train on, others to judge by, and the connectors that were heard.

    ``people`` is how many different ones stand behind the queries.
    """

    train: tuple[SplitExample, ...]
    held: tuple[SplitExample, ...]
    connectors: tuple[str, ...]
    people: int


def production_splits(
    window: Window,
    failures: Sequence[MinedFailure],
    fleet: Fleet,
    *,
    minutes: float,
    fewest_people: int,
    most_each: int,
) -> ProductionSplits:
    """Read missed and unneeded splits from the mined failures.

    Args:
        window: what was logged.
        failures: mined from it.
        fleet: whose examples are single questions: what stands in them often is no connector.
        minutes: a part asked again within this time tells of its connector, judged or not.
        fewest_people: nobody else's words are taken for a connector before so many different people said them.
        most_each: so many splits of one person count.
    """
    mined = _capped(_mined(window, failures), most_each)
    beside = _capped([*mined, *_asked_in_part(window, minutes=minutes)], most_each)
    ordinary = [utterance for route in fleet.routes for utterance in route.utterances]
    connectors = _heard(beside, ordinary, fewest=fewest_people)
    examples = [(one.by, _placed(one, connectors)) for one in mined]
    known = [(by, example) for by, example in examples if example is not None]
    return ProductionSplits(
        train=tuple(example for by, example in known if not _held_out(by)),
        held=tuple(example for by, example in known if _held_out(by)),
        connectors=connectors,
        people=len({by for by, _ in known} | {one.by for one in beside if set(_phrases(one)) & set(connectors)}),
    )


def doubted_queries(window: Window, *, minutes: float) -> set[str]:
    """Queries that may have asked several things: disliked as a whole, or a part of one was asked again soon after."""
    down = window.votes.loc[(window.votes["value"] == "down") & window.votes["segment_index"].isna(), "inference_id"]
    disliked = window.units.loc[window.units["inference_id"].isin(down), "text"].dropna()
    return set(disliked) | {one.example.text for one in _asked_in_part(window, minutes=minutes)}


def _asked_in_part(window: Window, *, minutes: float) -> list[MinedSplit]:
    """Unsplit queries of which a part was asked again soon after in the same session, judged or not."""
    units = window.units
    asked = units[units["session_id"].notna() & (units["segment_count"] == 1)]
    first: dict[Any, MinedSplit] = {}
    for row, _, part in asked_in_part(asked, minutes=minutes):
        example = SplitExample(text=row.text, starts=())
        first.setdefault(row.Index, MinedSplit(example=example, by=_person(row), part=part))
    return list(first.values())


def _mined(window: Window, failures: Sequence[MinedFailure]) -> list[MinedSplit]:
    kinds = ("missed_split", "unneeded_split")
    wanted = {failure.inference_id for failure in failures if failure.kind in kinds}
    segments: defaultdict[str, list[Any]] = defaultdict(list)
    for unit in window.units[window.units["inference_id"].isin(wanted)].itertuples():
        segments[str(unit.inference_id)].append(unit)
    found = []
    for failure in failures:
        row = next(iter(segments.get(failure.inference_id, ())), None)
        if row is None or not isinstance(row.query, str):
            continue
        if failure.kind == "missed_split":
            part = int(str(failure.evidence["part_start"])), int(str(failure.evidence["part_end"]))
            example = SplitExample(text=row.query, starts=(part[0],) if part[0] else (), weight=_MINED_WEIGHT)
            found.append(MinedSplit(example=example, by=_person(row), part=part))
        elif failure.kind == "unneeded_split":
            starts = _needed_starts(segments[failure.inference_id], failure)
            if starts is None:
                continue
            weight = _MINED_WEIGHT * failure.weight
            found.append(
                MinedSplit(example=SplitExample(text=row.query, starts=starts, weight=weight), by=_person(row))
            )
    return found


def _person(row: Any) -> str:
    return str(row.end_user or row.session_id or row.inference_id)


def _needed_starts(segments: Sequence[Any], failure: MinedFailure) -> tuple[int, ...] | None:
    """Where the segments start that are needed, without the first; None where that is not known."""
    unneeded = {int(str(index)) for index in _listed(failure.evidence["unneeded_starts"])}
    needed = [one.start_offset for one in segments if one.segment_index and one.segment_index not in unneeded]
    # A gateway that splits by itself need not tell where.
    return None if any(pd.isna(start) for start in needed) else tuple(map(int, needed))


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _capped(mined: Iterable[MinedSplit], most_each: int) -> list[MinedSplit]:
    """Each query once, and so many of one person."""
    count: Counter[str] = Counter()
    seen: set[str] = set()
    kept = []
    for one in mined:
        if one.example.text not in seen and count[one.by] < most_each:
            seen.add(one.example.text)
            count[one.by] += 1
            kept.append(one)
    return kept


def _heard(mined: Sequence[MinedSplit], ordinary: Sequence[str], *, fewest: int) -> tuple[str, ...]:
    """The words that several people say beside a part that should have been a segment of its own."""
    people: defaultdict[str, set[str]] = defaultdict(set)
    for one in mined:
        for phrase in _phrases(one):
            people[phrase].add(one.by)
    said = {phrase: len(by) for phrase, by in people.items() if len(by) >= fewest}
    texts = [bare_words(text) for text in ordinary]
    total = sum(one.part is not None for one in mined)
    chosen = {_longest(_phrases(one), said) for one in mined} - {""}
    return tuple(
        sorted(
            phrase
            for phrase in chosen
            if sum(bare_words(phrase) in text for text in texts) / max(len(texts), 1) < _ORDINARY * said[phrase] / total
        )
    )


def _phrases(one: MinedSplit) -> list[str]:
    """One word beside the part, two, three ... in lower case without marks around them; not the whole other part."""
    if one.part is None:
        return []
    start, end = one.part
    words = lowered(one.example.text[:start] if start else one.example.text[end:]).strip(_MARKS).split()
    count = min(_LONGEST_CONNECTOR, len(words) - 1)
    runs = (words[-n:] if start else words[:n] for n in range(1, count + 1))
    return [" ".join(run).strip(_MARKS) for run in runs]


def bare_words(text: str) -> str:
    """The words in lower case without marks around them, blanks around each: what a connector is found in."""
    return f" {' '.join(word.strip(_MARKS) for word in lowered(text).split())} "


def _longest(phrases: Sequence[str], said: Mapping[str, int]) -> str:
    """The longest of the growing phrases that stays with most of those who said the shorter one; "" for none."""
    found = ""
    for phrase in phrases:
        if phrase not in said or (found and said[phrase] < _STAYING * said[found]):
            break
        found = phrase
    return found


def _placed(one: MinedSplit, connectors: Sequence[str]) -> SplitExample | None:
    """The example with the connector beside its part left out of both segments; None if its boundary is not known."""
    if one.part is None:
        return one.example
    (start, end), text = one.part, one.example.text
    phrase = max((p for p in _phrases(one) if p in connectors), key=len, default="")
    if start:
        ends = (_before(text, start, phrase),) if phrase else None
        return replace(one.example, ends=ends)
    if not phrase:
        return None
    said = _said(phrase).search(lowered(text), end)
    if said is None:
        return None
    after = said.end()
    begin = after + len(text[after:]) - len(text[after:].lstrip(_MARKS))
    return replace(one.example, starts=(begin,), ends=(end,))


def _before(text: str, start: int, phrase: str) -> int:
    """Where the segment ends that stands before the connector in front of ``start``."""
    at = max((said.start() for said in _said(phrase).finditer(lowered(text), 0, start)), default=start)
    return len(text[:at].rstrip(_MARKS))


def _said(phrase: str) -> re.Pattern[str]:
    """The phrase as people type it: with any blanks and line breaks between its words."""
    return re.compile(r"\s+".join(map(re.escape, phrase.split())))


def _held_out(by: str) -> bool:
    """Whether this person's queries judge instead of training; every fourth does, the same ones each night."""
    return zlib.crc32(by.encode()) % _HELD_OUT == 0
