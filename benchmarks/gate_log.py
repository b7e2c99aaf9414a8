"""The logs against which ``benchmarks.gate`` judges: nights of the real loop, then days that nobody learned from."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
from sqlalchemy import func, select

from api.demo.simulated_users import Habits
from benchmarks.feedback_house import House, empty_database
from benchmarks.feedback_world import Array, Ints, KnownEmbeddings, World, draw_examples, draw_stream
from benchmarks.gate_candidates import Pool, open_pool
from benchmarks.gate_textbook import textbook_changes
from learner.comparison import Comparison, compare_on_log
from learner.evaluation import Evaluation, evaluate
from learner.folds import Folds, learn_by_folds
from learner.gate import decide_gate, doubtful_routes
from learner.kept_routes import keep_owners
from learner.learn import LearnedCentroids, learn_centroids, prepare
from learner.settings import LearnerSettings
from learner.window import Window, read_window
from router.registry import load
from router.version import RouterVersion
from telemetry.tables import router_version

JUDGED_NIGHTS = 3
_FEWEST_UNSEEN = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One night's estimate of a candidate as it was proposed, its lower bound (points), and what the gate did.

    ``textbook`` is what the estimators of ``gate_textbook`` make of it.
    """

    estimate: float
    low: float
    published: bool
    failed: tuple[str, ...]
    textbook: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What the gate knows after a night: the window, what was learned of it, and by folds."""

    window: Window
    incumbent: RouterVersion
    learned: LearnedCentroids
    folds: Folds
    examples: tuple[Array, Ints]
    settings: LearnerSettings

    def judge(self, candidate: RouterVersion) -> tuple[Verdict, RouterVersion]:
        """Put a candidate that is independent of this log through the gate, as a night does with its own.

        Returns what was found of it, and what would be published: the candidate, but for routes that are in doubt.
        """
        proposed = candidate
        first = evaluation = self._evaluate(candidate)
        if doubtful := doubtful_routes(evaluation, self.settings):
            stay = [self.incumbent.parameters.routes.index(route) for route in doubtful]
            candidate = replace(candidate, centroids=keep_owners(candidate.centroids, self.incumbent, stay))
            evaluation = self._evaluate(candidate)
        gate = decide_gate(evaluation, self.settings)
        overall = first.overall
        verdict = Verdict(
            estimate=overall.estimate,
            low=overall.low,
            published=gate.verdict == "published",
            failed=tuple(c.name for c in gate.conditions if not c.passed),
            textbook=textbook_changes(
                self.window, self.learned, self.folds, incumbent=self.incumbent, candidate=proposed
            ),
        )
        return verdict, candidate

    def _evaluate(self, candidate: RouterVersion) -> Evaluation:
        comparison = self.compare(candidate)
        return evaluate(
            self.window, self.incumbent, candidate, comparison, examples=self.examples, settings=self.settings
        )

    def compare(self, candidate: RouterVersion) -> Comparison:
        """Compare a candidate with the incumbent on this log."""
        return compare_on_log(
            self.window,
            self.learned.evidence,
            self.incumbent,
            self.learned.estimates,
            folds=self.folds,
            candidate=candidate,
            settings=self.settings,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """A night of the real loop: what its gate estimated of what it had learned, the bound, and what was true."""

    estimate: float
    low: float
    truth: float
    published: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GateWorld:
    """One seed: the incumbent with its pool of questions, logs of one to three days after it, its earlier nights."""

    seed: int
    pool: Pool
    logs: tuple[Log, ...]
    nights: tuple[Night, ...]


def build_world(
    world: World, options: argparse.Namespace, encoder: KnownEmbeddings, *, habits: Habits, home: Path, seed: int
) -> GateWorld:
    """Run nights until ``--published`` of them published (or three times as many ran), then log three days more."""
    rng = np.random.default_rng(seed)
    examples = draw_examples(world, count=options.seeds_per_route, rng=rng)
    own = np.concatenate(list(examples.values()))
    most = 3 * options.published
    days = most + JUDGED_NIGHTS
    stream = draw_stream(world, nights=days, per_night=options.per_night, zipf=0.0, without=own, rng=rng)
    settings = LearnerSettings(explore_share=options.explore, splitter_examples=0, seed=seed)
    with empty_database(home) as engine:
        house = House(engine, world, examples, encoder=encoder, settings=settings, nights=days)
        nights: list[Night] = []
        while sum(night.published for night in nights) < options.published and len(nights) < most:
            day = len(nights)
            house.live(day, world, stream[day], habits=habits, rng=rng)
            unseen = _unseen(world, own, stream[: day + 1])
            nights.append(_learn(house, day, world.X[unseen], world.label[unseen], examples=world.X[own]))
        pool = open_pool(house.router.version, world.X[unseen], world.label[unseen], examples=world.X[own])
        labels = np.repeat(np.arange(len(examples)), [len(rows) for rows in examples.values()])
        logs = []
        for day in range(len(nights), len(nights) + JUDGED_NIGHTS):
            house.live(day, world, stream[day], habits=habits, rng=rng)
            logs.append(_log(house, day, (world.X[own], labels)))
    return GateWorld(seed=seed, pool=pool, logs=tuple(logs), nights=tuple(nights))


def _unseen(world: World, examples: Ints, asked: Ints) -> Ints:
    """Questions that nobody has asked yet; all of them where hardly any is left."""
    left = np.setdiff1d(world.stream, np.concatenate([examples, asked.ravel()]))
    return left if len(left) >= _FEWEST_UNSEEN else world.stream


def _learn(house: House, day: int, X: Array, label: Ints, *, examples: Array) -> Night:
    before = open_pool(house.router.version, X, label, examples=examples)
    result, _ = house.night(day)
    overall = result.report["evaluation"]["overall"]
    with house.engine.connect() as conn:
        candidate = load(conn, conn.execute(select(func.max(router_version.c.number))).scalar_one())
    return Night(
        estimate=overall["estimate"],
        low=overall["low"],
        truth=before.change(candidate),
        published=result.verdict == "published",
    )


def _log(house: House, day: int, examples: tuple[Array, Ints]) -> Log:
    incumbent, settings = house.router.version, house.settings
    until = house.first_day + timedelta(days=day + 1)
    with house.engine.connect() as conn:
        window = read_window(conn, encoder=house.encoder, days=settings.window_days, until=until)
    material = prepare(window, incumbent, encoder=house.encoder, settings=settings, seed=settings.seed)
    return Log(
        window=window,
        incumbent=incumbent,
        learned=learn_centroids(material, incumbent, settings=settings),
        folds=learn_by_folds(material, incumbent, settings=settings),
        examples=examples,
        settings=settings,
    )
