"""How long a night takes and how much memory: ``python -m benchmarks.night --data F.jsonl.gz --label domain``.

Questions of the file are asked over and over until ``--requests`` are logged, a tenth of them rated, embeddings stored.
Then one whole night runs as it ships (splitter and gate included) in a process of its own, which is what is measured.
"""

import argparse
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from api.demo.simulated_users import Habits
from benchmarks.feedback_house import House, empty_database
from benchmarks.feedback_world import (
    KnownEmbeddings,
    World,
    add_run_arguments,
    draw_examples,
    draw_stream,
    open_world,
)
from benchmarks.report import BenchmarkReport, Row, peak_mib
from learner.nightly import run_night
from learner.settings import LearnerSettings
from router.encoder import load_encoder
from telemetry.database import create_engine


def main(arguments: Sequence[str] | None = None) -> None:
    """Log the requests, run the nights, print the table and write the figures."""
    options = _parser().parse_args(arguments)
    with open_world(options, split="test") as (world, known, home):
        rows = [_measured(world, known, options, home=home, seed=options.seed + i) for i in range(options.repeats)]
    report = BenchmarkReport(benchmark="night", args=vars(options), rows=rows)
    if options.json:
        report.write_json(options.json)
    report.print_table()


def _measured(world: World, known: KnownEmbeddings, options: argparse.Namespace, *, home: Path, seed: int) -> Row:
    """One night over what ``--days`` days logged."""
    rng = np.random.default_rng(seed)
    examples = draw_examples(world, count=options.seeds_per_route, rng=rng)
    seeds = np.concatenate(list(examples.values()))
    per_day = -(-options.requests // options.days)
    stream = draw_stream(world, nights=options.days, per_night=per_day, zipf=0, without=seeds, rng=rng)
    with empty_database(home) as engine:
        house = House(
            engine, world, examples, encoder=known, settings=LearnerSettings(splitter_examples=0), nights=options.days
        )
        for day in range(options.days):
            house.live(day, world, stream[day], habits=Habits(rated=options.rated), rng=rng)
            print(f"{len(house.right)} requests are logged", flush=True)
        until = house.first_day + timedelta(days=options.days)
        url = engine.url.render_as_string(hide_password=False)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
            metrics = alone.submit(night_alone, url, options.encoder, home, until).result()
    return Row(
        name="trimtab", repeat=seed, metrics={**metrics, "requests": len(house.right), "rated": len(house.thumbs)}
    )


def night_alone(url: str, encoder_name: str | None, home: Path, until: datetime) -> dict[str, float]:
    """One night as it ships, in a process that did nothing else: its seconds and the most memory it had, MiB."""
    encoder = load_encoder(encoder_name, home=home)
    engine = create_engine(url, statement_timeout_ms=600_000)
    began = time.perf_counter()

    def progress(step: str) -> None:
        now = time.perf_counter()
        print(f"  {now - began:6.1f} s  {peak_mib():6.0f} MiB  {step}", flush=True)

    result = run_night(
        engine, encoder=encoder, settings=LearnerSettings(), actor="benchmark", until=until, progress=progress
    )
    seconds = time.perf_counter() - began
    engine.dispose()
    return {"night_seconds": seconds, "peak_mib": peak_mib(), "published": float(result.verdict == "published")}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.night", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="JSON lines with text, LABEL, split")
    add("--label", default="domain", help="the column whose values are the routes")
    add("--requests", type=int, default=100_000, help="requests that are logged before the night")
    add("--rated", type=float, default=0.10, help="share of the answers that are voted on")
    add("--days", type=int, default=15, help="days over which they come")
    add("--seeds-per-route", type=int, default=10, help="examples of each route in the fleet")
    add("--repeats", type=int, default=1, help="seeds")
    add_run_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
