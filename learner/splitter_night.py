"""Step 5 of a night: retrain the splitter on the fleet's own questions; keep yesterday's where it is not better."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from learner.concatenate import SplitExample, concatenations
from learner.estimates import Estimates
from learner.mining import MinedFailure
from learner.production_splits import ProductionSplits, bare_words, doubted_queries, production_splits
from learner.settings import LearnerSettings
from learner.splitter_training import score_splitter, train_splitter
from learner.window import Window
from router.fleet import Fleet
from router.splitter import boundaries
from router.version import Array

_SURE = 0.9
_FEWEST_QUESTIONS = 8
_DOUBTFUL = 0.3
_WORDS_OF_TWO = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class NightSplitter:
    """The splitter to publish, and F1 of it and of the one before (None: not measured).

    ``f1`` is measured on held-out questions put together, ``production_f1`` on held-out queries of users that were
    split wrongly and on held-out questions joined by connectors that users were heard to say. ``people`` is how many
    different ones stand behind what was mined, ``mined`` how many queries that is.
    """

    arrays: Mapping[str, Array]
    f1: float | None = None
    f1_before: float | None = None
    production_f1: float | None = None
    production_f1_before: float | None = None
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
    incumbent: Mapping[str, Array],
    encoder: Any,
    settings: LearnerSettings,
    seed: int,
) -> NightSplitter:
    """Train on questions of different routes put together, and on mined missed and unneeded splits.

    Questions are parted before they are put together: what is held out shares no question with what trains. Another
    ``seed`` each night joins them in other ways, and what yesterday's splitter knows is where training starts. The
    new one is taken only if it is worse neither on held-out questions nor on what users were heard to ask.
    """
    if settings.splitter_examples == 0:
        return NightSplitter(arrays=incumbent)
    doubted = doubted_queries(window, minutes=settings.follow_up_minutes)
    questions = routed_questions(window, estimates, fleet=fleet, most=settings.splitter_examples, doubted=doubted)
    train, held = part_questions(questions)
    if sum(map(len, train.values())) < _FEWEST_QUESTIONS or sum(bool(q) for q in train.values()) < 2:
        return NightSplitter(arrays=incumbent)
    learned = production_splits(
        window,
        failures,
        fleet,
        minutes=settings.follow_up_minutes,
        fewest_people=settings.flip_users,
        most_each=int(settings.votes_per_user),
    )
    train, held = [_single(some, learned.connectors, incumbent, encoder=encoder) for some in (train, held)]
    count = min(settings.splitter_examples, 5 * sum(map(len, train.values())))
    examples = concatenations(train, count=count, seed=seed, heard=learned.connectors) + list(learned.train)
    arrays = train_splitter(examples, encoder=encoder, seed=seed, warm_start=incumbent or None)

    made = max(50, count // 6)
    judged = concatenations(held, count=made, seed=settings.seed + 1_000)
    production = list(learned.held) + _as_heard(held, learned, count=made, seed=settings.seed + 2_000)
    f1, production_f1 = (_f1(arrays, some, encoder=encoder) for some in (judged, production))
    before, production_before = (_f1(incumbent, some, encoder=encoder) for some in (judged, production))
    better = f1 >= before and production_f1 >= production_before
    return NightSplitter(
        arrays=arrays if better else incumbent,
        f1=f1 if better else before,
        f1_before=before,
        production_f1=production_f1 if better else production_before,
        production_f1_before=production_before,
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
    """Every fifth question of each route is held out."""
    train = {route: [q for i, q in enumerate(texts) if i % 5 != 4] for route, texts in questions.items()}
    held = {route: [q for i, q in enumerate(texts) if i % 5 == 4] or list(texts) for route, texts in questions.items()}
    return train, held


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


def _as_heard(
    held: Mapping[str, Sequence[str]], learned: ProductionSplits, *, count: int, seed: int
) -> list[SplitExample]:
    """Held-out questions joined by what users were heard to say; none if nothing was."""
    if not learned.connectors:
        return []
    return concatenations(held, count=count, seed=seed, heard=learned.connectors, share_heard=1.0)


def _f1(arrays: Mapping[str, Array], examples: Sequence[SplitExample], *, encoder: Any) -> float:
    """F1 of a splitter; none at all finds nothing."""
    if not examples:
        return 1.0
    return score_splitter(arrays, examples, encoder=encoder).f1
