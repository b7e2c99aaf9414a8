"""How well routes are learned from thumbs: ``python -m benchmarks.feedback_loop --data F.jsonl.gz --label domain``.

Routes are the label's values. The train split is the stream of questions; ``--score`` (test) is routed after each
night and never learned from. The loop under test is the real one: decisions, store, learner and gate that ship, on a
real Postgres. Beside it the baselines learn from the very same votes.
"""

import argparse
import resource
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from api.demo.simulated_users import Habits
from benchmarks.feedback_house import House, empty_database
from benchmarks.feedback_world import Ints, KnownEmbeddings, World, draw_examples, draw_stream, drifted, read_world
from benchmarks.peers import PEERS, Log, route_centroids
from benchmarks.report import BenchmarkReport, Row
from learner.settings import LearnerSettings
from router.encoder import load_encoder

DRIFT_AFTER = 8
RECOVERY_NIGHTS = 5
SHOWN = (
    *("accuracy_night_3", "accuracy_night_7", "accuracy_last", "gap_recovered", "online_accuracy"),
    *("worst_route_recall", "worst_step", "oos_auroc", "drift_won_back", "bad_route_recall"),
    *("published", "held", "night_seconds", "peak_mib"),
)


@dataclass(slots=True)
class Course:
    """One contender's accuracy on the scored questions, before the first night and after each, and the recalls."""

    accuracy: list[float] = field(default_factory=list)
    recall: list[npt.NDArray[np.float64]] = field(default_factory=list)
    after_drift: float | None = None

    def add(self, chosen: Ints, label: Ints, *, routes: int) -> None:
        """Score one more night."""
        right = chosen == label
        asked = np.maximum(np.bincount(label, minlength=routes), 1)
        self.accuracy.append(float(right.mean()))
        self.recall.append(np.bincount(label, weights=right, minlength=routes) / asked)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all repeats, print the table and write the figures."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="trimtab-benchmark-") as folder:
        home = options.home or Path(folder)
        encoder = load_encoder(options.encoder, home=home)
        world = read_world(
            options.data, label=options.label, split=options.score, encoder=encoder, kept=options.embeddings
        )
        known = KnownEmbeddings(world.texts, world.X, fingerprint=encoder.fingerprint)
        rows: list[Row] = []
        for repeat in range(options.repeats):
            rows += _repeat(world, options, known, home=home, seed=options.seed + repeat)
            report = BenchmarkReport(benchmark="feedback_loop", args=vars(options), rows=rows)
            if options.json:
                report.write_json(options.json)
    report.print_table([metric for metric in SHOWN if any(metric in row.metrics for row in rows)])
    if options.picture:
        from benchmarks.feedback_picture import draw

        draw(rows, path=options.picture)


def _repeat(world: World, options: argparse.Namespace, encoder: KnownEmbeddings, *, home: Path, seed: int) -> list[Row]:
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
    habits = _habits(options, world)
    learners = [name for name in PEERS if options.learners == ["all"] or name in options.learners]
    courses = {name: Course() for name in ("trimtab", "static", *learners)}
    nights: list[Mapping[str, float]] = []
    with empty_database(home) as engine:
        settings = LearnerSettings(explore_share=options.explore, splitter_examples=0, seed=seed)
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
            nights.append({"published": float(result.verdict == "published"), "seconds": seconds})
            _score(courses, house, world, examples, first=first, learners=learners)
            _tell(seed, night, courses, result.report, seconds)
        auroc = _auroc(house, world)
    full = _full(world, np.concatenate([stream.ravel(), *examples.values()]))
    return [
        Row(
            name=name,
            repeat=seed,
            metrics=_metrics(name, course, house, world, nights, full=full, auroc=auroc, options=options),
        )
        for name, course in courses.items()
    ] + [Row(name="full", repeat=seed, metrics={"accuracy_last": full})]


def _score(
    courses: Mapping[str, Course],
    house: House,
    world: World,
    examples: Mapping[str, Ints],
    *,
    first: Ints,
    learners: Sequence[str],
) -> None:
    """Add one night to every course."""
    X, label, routes = world.X[world.score], world.label[world.score], len(world.routes)
    courses["trimtab"].add(house.route(X), label, routes=routes)
    courses["static"].add(first, label, routes=routes)
    log = _log(house, world, examples)
    for name in learners:
        courses[name].add(PEERS[name](log)(X), label, routes=routes)


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


def _full(world: World, rows: Ints) -> float:
    """Accuracy with every question's true route known: 30 centroids a route."""
    predict = route_centroids(world.X[rows], world.label[rows], routes=len(world.routes), each=30)
    return float(np.mean(predict(world.X[world.score]) == world.label[world.score]))


def _auroc(house: House, world: World) -> float | None:
    """How well the best cosine tells questions of the fleet from alien ones."""
    if len(world.alien) == 0:
        return None
    rows = np.concatenate([world.score, world.alien])
    best = house.router.index.posterior(world.X[rows])[1]
    return float(roc_auc_score(np.arange(len(rows)) < len(world.score), best))


def _metrics(
    name: str,
    course: Course,
    house: House,
    world: World,
    nights: Sequence[Mapping[str, float]],
    *,
    full: float,
    auroc: float | None,
    options: argparse.Namespace,
) -> dict[str, float]:
    accuracy = course.accuracy
    found = {f"accuracy_night_{night}": value for night, value in enumerate(accuracy)}
    found |= {"accuracy_last": accuracy[-1], "worst_route_recall": float(course.recall[-1].min())}
    found["worst_step"] = float(np.diff(accuracy).min())
    if options.bad_route_rate:
        found["bad_route_recall"] = float(course.recall[-1][world.routes.index(_bad_route(options, world))])
    if not options.drift_intents:
        found["gap_recovered"] = (accuracy[-1] - accuracy[0]) / max(full - accuracy[0], 1e-9)
    if name != "trimtab":
        return found
    published = np.array([night["published"] for night in nights])
    steps = np.diff(accuracy)[published > 0]
    found["worst_step"] = float(steps.min()) if len(steps) else 0.0
    if course.after_drift is not None:
        before, recovered = accuracy[DRIFT_AFTER], accuracy[min(DRIFT_AFTER + RECOVERY_NIGHTS, len(accuracy) - 1)]
        found["drift_won_back"] = (recovered - course.after_drift) / max(before - course.after_drift, 1e-9)
        found["accuracy_after_drift"] = course.after_drift
    found["online_accuracy"] = float(np.mean(house.right))
    if auroc is not None:
        found["oos_auroc"] = auroc
    found |= {"published": float(published.sum()), "held": float(len(published) - published.sum())}
    found["night_seconds"] = float(nights[-1]["seconds"])
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def _habits(options: argparse.Namespace, world: World) -> Habits:
    good, bad = options.reask
    return Habits(
        rated=options.rated,
        flip=options.flip,
        bad_answer=options.bad_answer,
        reask_good=good,
        reask_bad=bad,
        bad_route=_bad_route(options, world) if options.bad_route_rate else None,
        bad_route_rate=options.bad_route_rate,
        poison_share=options.poison_share,
        poison_users=options.poison_users,
    )


def _bad_route(options: argparse.Namespace, world: World) -> str:
    return options.bad_route or world.routes[1 % len(world.routes)]


def _tell(seed: int, night: int, courses: Mapping[str, Course], report: Mapping[str, Any], seconds: float) -> None:
    accuracy = "  ".join(f"{name} {course.accuracy[-1]:.3f}" for name, course in courses.items())
    missing = "; ".join(report.get("missing", ()))
    print(
        f"seed {seed} night {night + 1:2d} {report['verdict']:9s} {seconds:5.1f} s  {accuracy}  {missing}", flush=True
    )


def _rates(value: str) -> tuple[float, float]:
    good, bad = map(float, value.split(","))
    return good, bad


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feedback_loop", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="JSON lines with text, LABEL, split; intent and oos where known")
    add("--label", default="domain", help="the column whose values are the routes")
    add("--nights", type=int, default=15)
    add("--per-night", type=int, default=1000, help="questions a night")
    add("--rated", type=float, default=0.10, help="share of the answers that are voted on")
    add("--flip", type=float, default=0.10, help="share of the votes that say the opposite")
    add("--bad-answer", type=float, default=0.10, help="share of the right route's answers that are bad")
    add("--reask", type=_rates, default=(0.06, 0.30), help="chance to ask again after a good and after a bad answer")
    add("--explore", type=float, default=0.02, help="share of the questions that explore")
    add("--seeds-per-route", type=int, default=10, help="examples of each route in the fleet")
    add("--zipf", type=float, default=0.0, help="exponent of the intents' frequencies; 0: all alike")
    add("--poison-share", type=float, default=0.0, help="share of the votes that come from liars")
    add("--poison-users", type=int, default=5, help="how many liars there are")
    add("--bad-route-rate", type=float, default=0.0, help="share of bad answers of one route on its own questions")
    add("--bad-route", help="which route that is; the second by name when left out")
    add("--drift-intents", type=int, default=0, help=f"intents that change route after night {DRIFT_AFTER}")
    add("--repeats", type=int, default=5, help="seeds")
    add("--seed", type=int, default=0, help="the first seed")
    add("--learners", type=lambda v: v.split(","), default=["all"], help="baselines: all, none, or names with commas")
    add("--score", choices=("test", "val"), default="test", help="split that is scored each night")
    add("--encoder", help="a sentence-transformers name or folder")
    add("--embeddings", type=Path, help="file (.npy) that keeps the embeddings from one run to the next")
    add("--home", type=Path, help="folder for the database and the encoder; a temporary one when left out")
    add("--json", type=Path, help="write raw figures and summary")
    add("--picture", type=Path, help="write a picture (.png) of accuracy by night")
    return parser


if __name__ == "__main__":
    main()
