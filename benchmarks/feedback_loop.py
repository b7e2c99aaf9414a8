"""How well routes are learned from thumbs: ``python -m benchmarks.feedback_loop --data F.jsonl.gz --label domain``.

Routes are the label's values. The train split is the stream of questions; ``--score`` (test) is routed after each
night and never learned from. The loop under test is the real one: decisions, store, learner and gate that ship, on a
real Postgres. Beside it the baselines learn from the very same votes.
"""

import argparse
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from api.demo.simulated_users import Habits
from benchmarks.feedback_house import House, empty_database
from benchmarks.feedback_scores import (
    DRIFT_AFTER,
    Course,
    Nights,
    bad_route,
    course_metrics,
    full_information,
    house_metrics,
    out_of_scope_auroc,
)
from benchmarks.feedback_world import (
    Ints,
    KnownEmbeddings,
    World,
    add_world_arguments,
    draw_examples,
    draw_stream,
    drifted,
    open_world,
    user_habits,
)
from benchmarks.peers import PEERS, Learner, Log
from benchmarks.report import BenchmarkReport, Row
from benchmarks.semantic_router_peer import NAME as SEMANTIC_ROUTER
from benchmarks.semantic_router_peer import SemanticRouterMissing, semantic_router
from learner.settings import LearnerSettings

SHOWN = (
    *("accuracy_night_3", "accuracy_night_7", "accuracy_last", "gap_recovered", "online_accuracy"),
    *("worst_route_recall", "worst_step", "oos_auroc", "drift_won_back", "bad_route_recall"),
    *("published", "held", "night_seconds", "peak_mib"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all repeats, print the table and write the figures."""
    options = _parser().parse_args(arguments)
    with open_world(options, split=options.score) as (world, known, home):
        rows: list[Row] = []
        for found in _repeats(world, options, known, home=home):
            rows = sorted([*rows, *found], key=lambda row: int(row.repeat))
            report = BenchmarkReport(benchmark="feedback_loop", args=vars(options), rows=rows)
            if options.json:
                report.write_json(options.json)
    report.print_table([metric for metric in SHOWN if any(metric in row.metrics for row in rows)])
    if options.picture:
        from benchmarks.feedback_picture import draw

        draw(rows, path=options.picture)


def _repeats(world: World, options: argparse.Namespace, known: KnownEmbeddings, *, home: Path) -> Iterator[list[Row]]:
    """The rows of every repeat, as they are done; ``--jobs`` of them at a time, each in a process of its own."""
    seeds = range(options.seed, options.seed + options.repeats)
    if options.jobs == 1:
        yield from (repeat(world, options, known, home=home, seed=seed) for seed in seeds)
        return
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawned, max_tasks_per_child=1) as pool:
        for done in as_completed(pool.submit(repeat, world, options, known, home=home, seed=seed) for seed in seeds):
            yield done.result()


def repeat(world: World, options: argparse.Namespace, encoder: KnownEmbeddings, *, home: Path, seed: int) -> list[Row]:
    """One seed: the nights of the real loop, and every baseline on its votes after each."""
    rng = np.random.default_rng(seed)
    examples = draw_examples(world, count=options.seeds_per_route, rng=rng)
    stream = draw_stream(
        world,
        nights=options.nights,
        per_night=options.per_night,
        zipf=options.zipf,
        without=np.concatenate(list(examples.values())),
        rng=rng,
    )
    habits, nights = _habits(options, world), Nights()
    with ExitStack() as stack:
        learners = _learners(options, stack)
        courses = {name: Course() for name in ("trimtab", "static", *learners)}
        engine = stack.enter_context(empty_database(home))
        settings = _settings(options, seed=seed)
        house = House(engine, world, examples, encoder=encoder, settings=settings, nights=options.nights)
        first = house.route(world.X[world.score])
        for course in courses.values():
            course.add(first, world.label[world.score], routes=len(world.routes))
        for night in range(options.nights):
            if options.drift_intents and night == DRIFT_AFTER:
                world = drifted(world, intents=options.drift_intents, rng=rng)
                lost = np.mean(house.route(world.X[world.score]) == world.label[world.score])
                courses["trimtab"].after_drift = float(lost)
            house.live(night, world, stream[night], habits=habits, rng=rng)
            result, seconds = house.night(night)
            nights.published.append(result.verdict == "published")
            nights.seconds.append(seconds)
            _score(courses, house, world, examples, first=first, learners=learners)
            _tell(seed, night, courses, result.report, seconds)
        auroc = out_of_scope_auroc(house, world)
    full = full_information(world, np.concatenate([stream.ravel(), *examples.values()]))
    rows = {name: course_metrics(course, world, options, full=full) for name, course in courses.items()}
    rows["trimtab"] |= house_metrics(courses["trimtab"], house, nights, auroc=auroc)
    rows["full"] = {"accuracy_last": full}
    return [Row(name=name, repeat=seed, metrics=metrics) for name, metrics in rows.items()]


def _learners(options: argparse.Namespace, stack: ExitStack) -> dict[str, Learner]:
    """The baselines that were asked for; one that is not installed is left out, and said so."""
    wanted = [*PEERS, SEMANTIC_ROUTER] if options.learners == ["all"] else options.learners
    found = {name: PEERS[name] for name in PEERS if name in wanted}
    if SEMANTIC_ROUTER in wanted:
        try:
            found[SEMANTIC_ROUTER] = stack.enter_context(semantic_router(options.semantic_router_python))
        except SemanticRouterMissing as error:
            print(f"{SEMANTIC_ROUTER} is left out: {error} --semantic-router-python names one that has it.", flush=True)
    return found


def _settings(options: argparse.Namespace, *, seed: int) -> LearnerSettings:
    """The learner's own defaults, but for what the options say; ``--misspecify`` scales what it expects of users."""
    settings = LearnerSettings.with_overrides(dict(pair.split("=", 1) for pair in options.learner))
    settings = replace(settings, explore_share=options.explore, splitter_examples=0, seed=seed)
    factor = options.misspecify
    return replace(
        settings,
        prior_success=1 - min((1 - settings.prior_success) * factor, 0.9),
        prior_wrong_route_success=min(settings.prior_wrong_route_success * factor, 0.9),
        prior_reask_right=min(settings.prior_reask_right * factor, 0.9),
        prior_reask_wrong=min(settings.prior_reask_wrong * factor, 0.9),
    )


def _score(
    courses: Mapping[str, Course],
    house: House,
    world: World,
    examples: Mapping[str, Ints],
    *,
    first: Ints,
    learners: Mapping[str, Learner],
) -> None:
    """Add one night to every course."""
    X, label, routes = world.X[world.score], world.label[world.score], len(world.routes)
    courses["trimtab"].add(house.route(X), label, routes=routes)
    courses["static"].add(first, label, routes=routes)
    log = _log(house, world, examples)
    for name, learner in learners.items():
        courses[name].add(learner(log)(X), label, routes=routes)


def _log(house: House, world: World, examples: Mapping[str, Ints]) -> Log:
    seeds = np.concatenate(list(examples.values()))
    routes = np.repeat(np.arange(len(world.routes)), [len(rows) for rows in examples.values()])
    return Log(
        routes=len(world.routes),
        seed_vectors=world.X[seeds],
        seed_route=routes,
        X=world.X[np.array(house.questions, dtype=np.int64)],
        route=np.array(house.answered_by, dtype=np.int64),
        up=np.array(house.thumbs, dtype=bool),
    )


def _habits(options: argparse.Namespace, world: World) -> Habits:
    return replace(
        user_habits(options),
        bad_route=bad_route(options, world) if options.bad_route_rate else None,
        bad_route_rate=options.bad_route_rate,
        poison_share=options.poison_share,
        poison_users=options.poison_users,
    )


def _tell(seed: int, night: int, courses: Mapping[str, Course], report: Mapping[str, Any], seconds: float) -> None:
    accuracy = "  ".join(f"{name} {course.accuracy[-1]:.3f}" for name, course in courses.items())
    missing = "; ".join(report.get("missing", ()))
    print(
        f"seed {seed} night {night + 1:2d} {report['verdict']:9s} {seconds:5.1f} s  {accuracy}  {missing}", flush=True
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feedback_loop", description=__doc__)
    add_world_arguments(parser)
    add = parser.add_argument
    add("--nights", type=int, default=15)
    add("--zipf", type=float, default=0.0, help="exponent of the intents' frequencies; 0: all alike")
    add("--poison-share", type=float, default=0.0, help="share of the votes that come from liars")
    add("--poison-users", type=int, default=5, help="how many liars there are")
    add("--bad-route-rate", type=float, default=0.0, help="share of bad answers of one route on its own questions")
    add("--bad-route", help="which route that is; the second by name when left out")
    add("--drift-intents", type=int, default=0, help=f"intents that change route after night {DRIFT_AFTER}")
    add("--misspecify", type=float, default=1.0, help="factor by which the learner's first guess of users is wrong")
    add("--learner", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the learner to change")
    add("--repeats", type=int, default=5, help="seeds")
    add("--jobs", type=int, default=1, help="repeats at a time, each in a process of its own")
    add("--learners", type=lambda v: v.split(","), default=["all"], help="baselines: all, none, or names with commas")
    add("--semantic-router-python", help="a Python that has semantic-router; this one when left out")
    add("--score", choices=("test", "val"), default="test", help="split that is scored each night")
    add("--picture", type=Path, help="write a picture (.png) of accuracy by night")
    return parser


if __name__ == "__main__":
    main()
