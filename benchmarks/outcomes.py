"""Which model should answer: ``python -m benchmarks.outcomes --data DIR``, a replay of logged outcomes.

The stream's questions come once, in nights; the model that is chosen answers, and its user's thumb is up where the
answer's reward is at least ``--pleased``. That thumb and the answer's cost are all that Trimtab sees: the real store,
learner and gate on a real Postgres, once for each cost weight, which draws a curve of reward against cost. Then the
scored questions are routed once. Beside it, on the same stream: ParetoBandit (sees exact rewards and costs, goes on
learning while it is scored) and LiteLLM's adaptive router (the same thumbs, goes on learning), each its own package in
its own environment; kNN and the best single model with every model's reward of the stream known; the oracle.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.feedback_house import empty_database
from benchmarks.feedback_world import KnownEmbeddings, add_run_arguments
from benchmarks.outcomes_data import Floats, Ints, Outcomes, read_outcomes
from benchmarks.outcomes_house import ModelHouse
from benchmarks.peers_elsewhere import PACKAGES, PeerUnavailable, default_folder, run_peer
from benchmarks.report import BenchmarkReport, Row
from learner.settings import LearnerSettings
from router.encoder import load_encoder

WEIGHTS = (0.0, 0.003, 0.006, 0.01, 0.02, 0.05, 0.2, 0.4, 0.7, 1.0, 5.0)
_NEIGHBOURS = 30
SHOWN = ("reward", "cost_per_1000", "top_share", "over_curve", "collapsed", "published", "held")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all repeats, print the table and the mix of models, write figures and picture."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="trimtab-benchmark-") as folder:
        home = options.home or Path(folder)
        encoder = load_encoder(options.encoder, home=home)
        data = read_outcomes(
            options.data, without=options.without, score=options.score, encoder=encoder, kept=options.embeddings
        )
        known = KnownEmbeddings(data.texts, data.X, fingerprint=encoder.fingerprint)
        rows: list[Row] = []
        for repeat in range(options.repeats):
            rows += _repeat(data, options, known, home=home, seed=options.seed + repeat)
    report = BenchmarkReport(benchmark="outcomes", args=vars(options), rows=rows)
    if options.json:
        report.write_json(options.json)
    report.print_table(SHOWN)
    if options.picture:
        from benchmarks.outcomes_picture import draw

        draw(report, path=options.picture)


def _repeat(
    data: Outcomes, options: argparse.Namespace, encoder: KnownEmbeddings, *, home: Path, seed: int
) -> list[Row]:
    """One order of the stream: ours at every cost weight, the peers, and what full information gives."""
    stream = np.random.default_rng(seed).permutation(data.stream)
    ours = [_trimtab(data, stream, options, encoder, weight=w, home=home, seed=seed) for w in options.weights]
    others = [_row(data, name, chosen, seed=seed) for name, chosen in _informed(data, stream, options, seed=seed)]
    others += [row for name in options.peers for row in _peer(name, data, stream, options, seed=seed)]
    curve = upper_curve([(row.metrics["cost_per_1000"], row.metrics["reward"]) for row in ours])
    return ours + [
        Row(name=row.name, repeat=seed, metrics={**row.metrics, "over_curve": over_curve(curve, row)}) for row in others
    ]


def _trimtab(
    data: Outcomes,
    stream: Ints,
    options: argparse.Namespace,
    encoder: KnownEmbeddings,
    *,
    weight: float,
    home: Path,
    seed: int,
) -> Row:
    """The real loop at one cost weight: nights over the stream, then the scored questions."""
    rng, verdicts = np.random.default_rng([seed, 1]), []
    settings = LearnerSettings(splitter_examples=0, seed=seed)
    with empty_database(home) as engine:
        house = ModelHouse(engine, data, cost_weight=weight, encoder=encoder, settings=settings, nights=options.nights)
        for night, rows in enumerate(np.array_split(stream, options.nights)):
            house.live(night, rows, pleased_from=options.pleased, rated=options.rated, rng=rng)
            verdicts.append(house.night(night).verdict)
        chosen = house.choose(data.score)
    row = _row(data, f"trimtab@{weight:g}", chosen, seed=seed)
    published = float(verdicts.count("published"))
    counts = {"cost_weight": weight, "published": published, "held": len(verdicts) - published}
    collapsed = _collapsed(data, chosen, weight=weight, pleased_from=options.pleased)
    print(f"seed {seed} {row.name:15s} {_told(row)}  {published:.0f} of {len(verdicts)} nights published", flush=True)
    return Row(name=row.name, repeat=seed, metrics={**row.metrics, **counts, "collapsed": collapsed})


def _informed(data: Outcomes, stream: Ints, options: argparse.Namespace, *, seed: int) -> list[tuple[str, Ints]]:
    """What is measured against: chance, one model for all, every model's reward of the stream known, the oracle."""
    n, R = len(data.score), len(data.models)
    known, price = data.reward[stream], data.cost[stream].mean(axis=0) / max(float(data.cost[stream].mean()), 1e-12)
    near = np.argsort(-(data.X[data.score] @ data.X[stream].T), axis=1, kind="stable")[:, :_NEIGHBOURS]
    expected: Floats = known[near].mean(axis=1)
    found = [("random", np.random.default_rng([seed, 2]).integers(R, size=n))]
    found.append(("best_single", np.full(n, int(known.mean(axis=0).argmax()))))
    found += [(f"single:{model}", np.full(n, i)) for i, model in enumerate(data.models)]
    found.append(("oracle", data.reward[data.score].argmax(axis=1)))
    return found + [(f"knn_full@{w:g}", (expected - w * price).argmax(axis=1)) for w in options.weights]


def _peer(name: str, data: Outcomes, stream: Ints, options: argparse.Namespace, *, seed: int) -> list[Row]:
    folder = options.environments or default_folder()
    try:
        found = run_peer(name, data, stream, seed=seed, pleased_from=options.pleased, folder=folder)
    except PeerUnavailable as error:
        print(f"without {error}", flush=True)
        return []
    return [
        Row(name=one["name"], repeat=seed, metrics=_metrics(data, one["reward"], one["cost"], np.array(one["shares"])))
        for one in found
    ]


def _row(data: Outcomes, name: str, chosen: Ints, *, seed: int) -> Row:
    shares = np.bincount(chosen, minlength=len(data.models)) / len(chosen)
    reward, cost = data.reward[data.score, chosen].mean(), data.cost[data.score, chosen].mean()
    return Row(name=name, repeat=seed, metrics=_metrics(data, float(reward), float(cost), shares))


def _metrics(data: Outcomes, reward: float, cost: float, shares: Floats) -> dict[str, float]:
    mix = {f"share:{model}": float(share) for model, share in zip(data.models, shares, strict=True)}
    return {"reward": reward, "cost_per_1000": 1000 * cost, "top_share": float(shares.max()), **mix}


def _collapsed(data: Outcomes, chosen: Ints, *, weight: float, pleased_from: float) -> float:
    """1 where one model gets over 90 % without being the best, else 0.

    Best: its lead in utility over each other one, pleased users less the price at this weight, is above two standard
    errors of the paired difference.
    """
    cost = data.cost[data.score]
    utility = (data.reward[data.score] >= pleased_from) - weight * cost / max(float(cost.mean()), 1e-12)
    counts = np.bincount(chosen, minlength=len(data.models))
    top = int(counts.argmax())
    if counts[top] <= 0.9 * len(chosen):
        return 0.0
    lead = np.delete(utility[:, [top]] - utility, top, axis=1)
    error = lead.std(axis=0, ddof=1) / np.sqrt(len(lead))
    return float((lead.mean(axis=0) <= 2 * error).any())


def upper_curve(points: Sequence[tuple[float, float]]) -> Floats:
    """The upper concave hull of (cost, reward), (k, 2): what mixing neighbouring versions reaches at each cost."""
    hull: list[tuple[float, float]] = []
    for point in sorted(points):
        while hull and point[1] >= hull[-1][1] and point[0] <= hull[-1][0]:
            hull.pop()
        while len(hull) > 1 and _below(hull[-2], hull[-1], point):
            hull.pop()
        if not hull or point[1] > hull[-1][1]:
            hull.append(point)
    return np.array(hull, dtype=np.float64)


def _below(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or under the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def over_curve(curve: Floats, row: Row) -> float:
    """By how much reward a point lies over the curve at its cost; beyond either end the curve goes on level."""
    reached = float(np.interp(row.metrics["cost_per_1000"], curve[:, 0], curve[:, 1]))
    return row.metrics["reward"] - reached


def _told(row: Row) -> str:
    shares: list[Any] = [value for name, value in row.metrics.items() if name.startswith("share:")]
    mix = " ".join(f"{share:.0%}" for share in shares)
    return f"reward {row.metrics['reward']:.4f} at ${row.metrics['cost_per_1000']:.3f} a thousand; {mix}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outcomes", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with queries.parquet, outcomes.parquet and models.json")
    add("--without", nargs="*", default=[], metavar="MODEL", help="models to leave out")
    add("--weights", nargs="*", type=float, default=list(WEIGHTS), help="cost weights, each a point of the curve")
    add("--nights", type=int, default=6, help="nights over which the stream is spread")
    add("--rated", type=float, default=1.0, help="share of the answers that get a thumb")
    add("--pleased", type=float, default=0.9, help="reward from which a thumb is up")
    add("--score", choices=("test", "val"), default="test", help="val: a third of the stream is held out, to tune on")
    add("--peers", nargs="*", choices=tuple(PACKAGES), default=list(PACKAGES), help="peers with their own environment")
    add("--repeats", type=int, default=1)
    add("--environments", type=Path, help="folder that keeps the peers' environments")
    add("--picture", type=Path, help="write a picture (.png) of the curve and the mix of models")
    add_run_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
