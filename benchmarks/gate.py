"""Candidates of known true change before the real gate: ``python -m benchmarks.gate --data F.jsonl.gz``.

The real loop runs some nights; three more days are logged and nobody learns from them. Against these logs, after one,
two and three nights, the gate judges candidates whose true change is known by the labels of questions that the
incumbent never saw: regions of the incumbent are given to their right owners and others to wrong ones until the change
is what was asked for. Routes in doubt keep the incumbent's centroids, so what is published may be a part of what was
proposed. ``published_rate`` counts candidates of which any of the three nights published what is truly within two
points of them, ``part_published_rate`` those of which only another part was published, ``worse_published_rate`` those
where what was published, whole or part, is truly more than a point worse, ``caught`` those where it has no ruined route
in it. ``rmse`` (points), ``coverage`` (of the lower 90 % bound) and ``spearman`` are of the estimates of all three
nights, and beside them those of the textbook estimators; ``all`` takes as many of every kind.
The row ``nights`` says the same of what the real nights before had learned; ``rollback_pairs`` are a canary's rated
answers.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from api.demo.simulated_users import Habits
from benchmarks.feedback_world import add_world_arguments, open_world, user_habits
from benchmarks.gate_canary import run_canary
from benchmarks.gate_candidates import collapsed, of_change, with_one_route_ruined
from benchmarks.gate_log import GateWorld, Night, Verdict, build_world
from benchmarks.report import BenchmarkReport, Row
from router.version import RouterVersion

CHANGES = (-10, -5, -3, -1, 0, 1, 3, 5)
COLLAPSED = 20
TRIES = 5
ALIKE = 2.0
WORSE = 1.0
# Points that the ruined route may lose in what is published, for it to count as caught.
SPOILED = -10.0
TEXTBOOK = ("ips", "snips", "dr")
SHOWN = (
    *("published_rate", "part_published_rate", "worse_published_rate", "caught"),
    *("spearman", "rmse", "bias", "coverage", "truth", "candidates"),
    *(f"{what}_{name}" for name in TEXTBOOK for what in ("spearman", "rmse")),
    *("rollback_pairs", "rolled_back", "false_alarm_rate"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One candidate: its true change and each night's verdict; true changes (points) of what each night published.

    ``spoiled`` says whether anything published has the route in it that the candidate ruins.
    """

    truth: float
    verdicts: tuple[Verdict, ...]
    published: tuple[float, ...]
    spoiled: bool = False

    @property
    def came_through(self) -> bool:
        """Whether some night published it, and not only a part that is another thing altogether."""
        return any(abs(change - self.truth) <= ALIKE for change in self.published)


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge all candidates of all seeds, print the table and write the figures."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    with open_world(options, split="val") as (world, known, home):
        habits = user_habits(options)
        for seed in range(options.seed, options.seed + options.repeats):
            built = build_world(world, options, known, habits=habits, home=home, seed=seed)
            rows += judge_all(built, candidates=options.candidates)
            rows += run_canaries(built, canaries=options.canaries, share=options.canary_share, habits=habits)
            report = BenchmarkReport(benchmark="gate", args=vars(options), rows=rows)
            if options.json:
                report.write_json(options.json)
    report.print_table([metric for metric in SHOWN if any(metric in row.metrics for row in rows)])


def judge_all(world: GateWorld, *, candidates: int) -> list[Row]:
    """Put so many candidates of every kind through the gate, and sum up each kind and all of known change."""
    rng = np.random.default_rng(world.seed)
    found: dict[str, list[Judged]] = {}
    for kind, version, ruined in _candidates(world, candidates, rng):
        found.setdefault(kind, []).append(_judge(world, version, ruined=ruined))
    fewest = -(-candidates // 3)
    measured = [judged for kind, several in found.items() if kind != "collapse" for judged in several[:fewest]]
    rows = [Row(name=kind, repeat=world.seed, metrics=_metrics(several)) for kind, several in found.items()]
    rows.append(Row(name="all", repeat=world.seed, metrics=_errors(measured) | _ranks(measured)))
    return [*rows, Row(name="nights", repeat=world.seed, metrics=_night_errors(world.nights))]


def run_canaries(world: GateWorld, *, canaries: int, share: float, habits: Habits) -> list[Row]:
    """Let canaries 10 points worse, and twice as many that are the incumbent itself, come before the sequential test.

    Of the latter, the questions on which another candidate would differ are taken for those where it does.
    """
    rng = np.random.default_rng(world.seed + 1_000)
    worse, same = [], []
    for _ in range(canaries):
        if (version := of_change(world.pool, points=-10, rng=rng)) is not None:
            worse.append(run_canary(world.pool, version, habits=habits, rng=rng, share=share))
            same += [run_canary(world.pool, version, habits=habits, rng=rng, share=share, same=True) for _ in range(2)]
    metrics = {
        "rollback_pairs": float(np.median([run.rated for run in worse])),
        "rolled_back": float(np.mean([run.worse for run in worse])),
        "candidates": float(len(worse)),
    }
    alarms = {"false_alarm_rate": float(np.mean([run.worse for run in same])), "candidates": float(len(same))}
    return [
        Row(name="canary_10_worse", repeat=world.seed, metrics=metrics),
        Row(name="canary_same", repeat=world.seed, metrics=alarms),
    ]


def _candidates(
    world: GateWorld, count: int, rng: np.random.Generator
) -> Iterator[tuple[str, RouterVersion, int | None]]:
    """Kind, version, and the position of the route that it ruins."""
    for points in CHANGES:
        for _ in range(count if points == CHANGES[0] else -(-count // 3)):
            for _ in range(TRIES):
                if (version := of_change(world.pool, points=points, rng=rng)) is not None:
                    yield f"{points:+d}", version, None
                    break
    for _ in range(-(-count // 3)):
        yield "one_route_ruined", *with_one_route_ruined(world.pool, rng=rng)
    for _ in range(min(count, COLLAPSED)):
        yield "collapse", collapsed(world.pool, rng=rng), None


def _judge(world: GateWorld, version: RouterVersion, *, ruined: int | None) -> Judged:
    nights = [log.judge(version) for log in world.logs]
    published = [what for verdict, what in nights if verdict.published]
    return Judged(
        truth=world.pool.change(version),
        verdicts=tuple(verdict for verdict, _ in nights),
        published=tuple(world.pool.change(what) for what in published),
        spoiled=ruined is not None and any(world.pool.recall_change(what, ruined) < SPOILED for what in published),
    )


def _metrics(several: Sequence[Judged]) -> dict[str, float]:
    found = {
        "published_rate": float(np.mean([j.came_through for j in several])),
        "part_published_rate": float(np.mean([bool(j.published) and not j.came_through for j in several])),
        "worse_published_rate": float(np.mean([min(j.published, default=0.0) < -WORSE for j in several])),
        "caught": float(np.mean([not j.spoiled for j in several])),
        "truth": float(np.mean([j.truth for j in several])),
        "candidates": float(len(several)),
    }
    return found | _errors(several)


def _errors(several: Sequence[Judged]) -> dict[str, float]:
    error = np.array([[v.estimate - j.truth for v in j.verdicts] for j in several])
    found = {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "bias": float(error.mean()),
        "coverage": float(np.mean([[v.low <= j.truth for v in j.verdicts] for j in several])),
    }
    for name in TEXTBOOK:
        off = np.array([[v.textbook[name] - j.truth for v in j.verdicts] for j in several])
        found[f"rmse_{name}"] = float(np.sqrt(np.mean(off**2)))
    return found


def _night_errors(nights: Sequence[Night]) -> dict[str, float]:
    """The same of what the real nights before had learned themselves."""
    error = np.array([night.estimate - night.truth for night in nights])
    return {
        "published_rate": float(np.mean([night.published for night in nights])),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "bias": float(error.mean()),
        "coverage": float(np.mean([night.low <= night.truth for night in nights])),
        "truth": float(np.mean([night.truth for night in nights])),
        "candidates": float(len(nights)),
    }


def _ranks(several: Sequence[Judged]) -> dict[str, float]:
    """Mean over the nights of the rank correlation of each estimate and the truth."""
    truth = [j.truth for j in several]
    nights = list(zip(*(j.verdicts for j in several), strict=True))

    def mean(estimates: Sequence[Sequence[float]]) -> float:
        return float(np.mean([spearmanr(truth, night).statistic for night in estimates]))

    textbook = {f"spearman_{name}": mean([[v.textbook[name] for v in night] for night in nights]) for name in TEXTBOOK}
    return {"spearman": mean([[v.estimate for v in night] for night in nights])} | textbook


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    add_world_arguments(parser)
    add = parser.add_argument
    add("--published", type=int, default=2, help="versions that the real loop publishes before the gate's logs begin")
    add("--candidates", type=int, default=60, help="10 points worse of each seed; a third as many of the other kinds")
    add(
        "--canaries",
        type=int,
        default=20,
        help="canaries 10 points worse of each seed; twice as many that are the same",
    )
    add("--canary-share", type=float, default=0.25, help="share of the sessions that a canary gets")
    add("--repeats", type=int, default=5, help="seeds")
    return parser


if __name__ == "__main__":
    main()
