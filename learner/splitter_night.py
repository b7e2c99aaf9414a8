"""Step 5 of a night: retrain the splitter on the fleet's own questions; keep yesterday's where it is not better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from learner.concatenate import SplitExample, concatenations
from learner.estimates import Estimates
from learner.mining import MinedFailure
from learner.settings import LearnerSettings
from learner.splitter_training import score_splitter, train_splitter
from learner.window import Window
from router.fleet import Fleet
from router.version import Array

_SURE = 0.9
_FEWEST_QUESTIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class NightSplitter:
    """The splitter to publish, and F1 on held-out questions of it and of the one before (None: not measured)."""

    arrays: Mapping[str, Array]
    f1: float | None
    f1_before: float | None
    examples: int


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
    ``seed`` each night joins them in other ways, and what yesterday's splitter knows is where training starts.
    """
    kept = NightSplitter(arrays=incumbent, f1=None, f1_before=None, examples=0)
    if settings.splitter_examples == 0:
        return kept
    questions = routed_questions(window, estimates, fleet=fleet)
    train, held = part_questions(questions)
    if sum(map(len, train.values())) < _FEWEST_QUESTIONS or sum(bool(q) for q in train.values()) < 2:
        return kept
    distinct = sum(map(len, train.values()))
    count = min(settings.splitter_examples, 5 * distinct)
    examples = concatenations(train, count=count, seed=seed)
    examples += mined_examples(window, failures)
    arrays = train_splitter(examples, encoder=encoder, seed=seed, warm_start=incumbent or None)
    judged = concatenations(held, count=max(50, count // 6), seed=settings.seed + 1_000)
    f1 = score_splitter(arrays, judged, encoder=encoder).f1
    before = score_splitter(incumbent, judged, encoder=encoder).f1 if incumbent else 0.0
    better = arrays if f1 >= before else incumbent
    return NightSplitter(arrays=better, f1=max(f1, before), f1_before=before, examples=len(examples))


def routed_questions(window: Window, estimates: Estimates, *, fleet: Fleet) -> dict[str, list[str]]:
    """The fleet's examples, and unsplit questions whose route is sure by now, by route; sorted, without repeats."""
    found = {route.name: set(route.utterances) for route in fleet.routes}
    if len(window.units):
        best = estimates.posteriors.argmax(axis=1)
        sure = estimates.posteriors[np.arange(len(best)), best] >= _SURE
        sure &= (window.units["segment_count"] == 1).to_numpy() & window.units["text"].notna().to_numpy()
        for at in np.flatnonzero(sure):
            found.setdefault(estimates.routes[best[at]], set()).add(window.units["text"].iat[at])
    return {route: sorted(texts) for route, texts in found.items() if texts}


def part_questions(
    questions: Mapping[str, Sequence[str]],
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Every fifth question of each route is held out."""
    train = {route: [q for i, q in enumerate(texts) if i % 5 != 4] for route, texts in questions.items()}
    held = {route: [q for i, q in enumerate(texts) if i % 5 == 4] or list(texts) for route, texts in questions.items()}
    return train, held


def mined_examples(window: Window, failures: Sequence[MinedFailure]) -> list[SplitExample]:
    """Missed splits with their known start, unneeded splits as questions that are not split."""
    query = dict(zip(window.units["inference_id"], window.units["query"], strict=True))
    examples = []
    for failure in failures:
        text = query.get(failure.inference_id)
        if not isinstance(text, str):
            continue
        if failure.kind == "missed_split":
            start = int(str(failure.evidence["part_start"]))
            if start > 0:
                examples.append(SplitExample(text=text, starts=(start,), weight=2.0))
        elif failure.kind == "unneeded_split" and failure.evidence["all_belong_to"]:
            examples.append(SplitExample(text=text, starts=(), weight=2.0))
    return examples
