"""Step 5 of a night: retrain the splitter on the fleet's own questions; keep yesterday's where it is not better."""

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from learner.concatenate import concatenations
from learner.conditions import Condition
from learner.estimates import Estimates
from learner.mining import MinedFailure
from learner.production_splits import bare_words, doubted_queries, production_splits
from learner.settings import LearnerSettings
from learner.splitter_gate import splitter_conditions, splitter_kept
from learner.splitter_judge import Judged, judge_splitter, judged_queries
from learner.splitter_training import averaged, train_splitter
from learner.window import Window
from router.fleet import Fleet
from router.splitter import boundaries
from router.version import Array, RouterVersion

_SURE = 0.9
_FEWEST_QUESTIONS = 8
_DOUBTFUL = 0.3
_WORDS_OF_TWO = 6
_HELD_OUT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NightSplitter:
    """The splitter to publish: the new one if it was ``taken``, else the one before.

    ``judged`` is how the new one fared on each kind of query, ``conditions`` what the gate is told of it. ``people`` is
    how many different ones stand behind what was mined, ``mined`` how many queries that is.
    """

    arrays: Mapping[str, Array]
    taken: bool = False
    judged: tuple[Judged, ...] = ()
    conditions: tuple[Condition, ...] = ()
    examples: int = 0
    mined: int = 0
    people: int = 0
    connectors: tuple[str, ...] = ()


def retrain_splitter(
    window: Window,
    estimates: Estimates,
    failures: Sequence[MinedFailure],
    *,
    fleet: Fleet,
    incumbent: RouterVersion,
    encoder: Any,
    settings: LearnerSettings,
    seed: int,
) -> NightSplitter:
    """Train on questions of different routes put together, and on mined missed and unneeded splits.

    Questions are parted before they are put together: what is held out shares no question with what trains. Another
    ``seed`` each night joins them in other ways, and what yesterday's splitter knows is where training starts, and the
    mean of both is the new one. It is taken only if ``splitter_conditions`` hold on every kind of query.
    """
    if settings.splitter_examples == 0:
        return NightSplitter(arrays=incumbent.splitter)
    doubted = doubted_queries(window, minutes=settings.follow_up_minutes)
    questions = routed_questions(window, estimates, fleet=fleet, most=settings.splitter_examples, doubted=doubted)
    train, held = part_questions(questions)
    if sum(map(len, train.values())) < _FEWEST_QUESTIONS or sum(bool(q) for q in train.values()) < 2:
        return NightSplitter(arrays=incumbent.splitter)
    learned = production_splits(
        window,
        failures,
        fleet,
        minutes=settings.follow_up_minutes,
        fewest_people=settings.flip_users,
        most_each=int(settings.votes_per_user),
    )
    train, held = [_single(some, learned.connectors, incumbent.splitter, encoder=encoder) for some in (train, held)]
    count = min(settings.splitter_examples, 5 * sum(map(len, train.values())))
    examples = concatenations(train, count=count, seed=seed, heard=learned.connectors) + list(learned.train)
    trained = train_splitter(examples, encoder=encoder, seed=seed, warm_start=incumbent.splitter or None)
    arrays = averaged(incumbent.splitter, trained)
    queries = judged_queries(
        held, mined=learned.held, heard=learned.connectors, count=settings.splitter_judged, seed=seed
    )
    judged = judge_splitter(arrays, incumbent, queries, encoder=encoder)
    conditions = splitter_conditions(judged, settings)
    taken = all(condition.passed for condition in conditions)
    return NightSplitter(
        arrays=arrays if taken else incumbent.splitter,
        taken=taken,
        judged=judged,
        conditions=conditions if taken else (splitter_kept(conditions),),
        examples=len(examples),
        mined=len(learned.train) + len(learned.held),
        people=learned.people,
        connectors=learned.connectors,
    )


def routed_questions(
    window: Window,
    estimates: Estimates,
    *,
    fleet: Fleet,
    most: int | None = None,
    doubted: Collection[str] = (),
) -> dict[str, list[str]]:
    """The fleet's examples, and unsplit questions whose route is sure by now, by route; sorted, without repeats.

    ``most`` is how many questions are taken beside the examples, evenly from all that there are but ``doubted`` ones.
    """
    found = {route.name: set(route.utterances) for route in fleet.routes}
    if len(window.units):
        best = estimates.posteriors.argmax(axis=1)
        sure = estimates.posteriors[np.arange(len(best)), best] >= _SURE
        sure &= (window.units["segment_count"] == 1).to_numpy() & window.units["text"].notna().to_numpy()
        sure &= ~window.units["text"].isin(list(doubted)).to_numpy()
        rows = np.flatnonzero(sure)
        if most is not None and len(rows) > most:
            rows = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
        for at in rows:
            found.setdefault(estimates.routes[best[at]], set()).add(window.units["text"].iat[at])
    return {route: sorted(texts) for route, texts in found.items() if texts}


def part_questions(
    questions: Mapping[str, Sequence[str]],
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Every fifth question is held out, the same ones each night: what trained once can judge no later splitter."""
    train = {route: [q for q in texts if not _is_held_out(q)] or list(texts) for route, texts in questions.items()}
    held = {route: [q for q in texts if _is_held_out(q)] or list(texts) for route, texts in questions.items()}
    return train, held


def _is_held_out(question: str) -> bool:
    return zlib.crc32(question.encode()) % _HELD_OUT == 0


def _single(
    questions: Mapping[str, Sequence[str]], connectors: Sequence[str], arrays: Mapping[str, Array], *, encoder: Any
) -> dict[str, list[str]]:
    """The questions without those that seem to be several: taken for single ones they would teach not to split."""
    texts = sorted({text for asked in questions.values() for text in asked})
    doubtful = {text for text in texts if any(bare_words(connector) in bare_words(text) for connector in connectors)}
    long = [text for text in texts if len(text.split()) >= _WORDS_OF_TWO]  # shorter ones need no look
    for text, encoding in zip(long, encoder.encode(long, hidden=True), strict=True):
        if any(boundary.probability >= _DOUBTFUL for boundary in boundaries(arrays, encoding, text)):
            doubtful.add(text)
    return {
        route: [text for text in asked if text not in doubtful] or list(asked) for route, asked in questions.items()
    }
