"""Whether splitting is learned from use: ``python -m benchmarks.splitter_nights --data F.jsonl.gz --label domain``.

A fleet with a few examples a route serves users who join their questions by connectors that its first version never
saw. Decisions, store, nights and gate are those that ship, on a real Postgres; only the users are simulated. After
every night the version that serves splits held-out questions, joined by those connectors, by the known ones and by
none, and single ones. A night is counted as worse on one of these where more of its queries became wrong than right, by
more than chance. F holds single questions, as for
``benchmarks.feedback_loop``.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sqlalchemy import Engine, text

from api.recording import Recording
from benchmarks.feedback_house import empty_database
from benchmarks.report import BenchmarkReport, Row
from benchmarks.splitter import THRESHOLD, Contender, KeptEncodings, measure
from benchmarks.splitter_baselines import Spans
from benchmarks.splitter_data import Query, read_queries
from benchmarks.splitter_routing import called_routes, routing_metrics
from benchmarks.splitter_users import UNHEARD, Day, Manners, Users, draw_queries
from learner.connectors import CONNECTORS
from learner.first_version import build_first_version
from learner.nightly import NightResult, run_night
from learner.settings import LearnerSettings
from router.decide import Router, decide
from router.decision import Decision
from router.encoder import Encoding, load_encoder
from router.fleet import Fleet, Route
from router.registry import load, publish
from router.splitter import boundaries, cut
from router.version import RouterVersion
from telemetry.feedback import store_feedback
from telemetry.ids import new_id
from telemetry.inferences import store_inferences

_SHOWN = ("boundary_precision", "boundary_recall", "boundary_f1", "exact", "over_split", "calls_per_query")
_ALSO = ("routes_exact", "unneeded_splits", "missed_splits", "step", "worse", "night_seconds", "mined", "published")
_TESTED_SEVERAL = 0.7
_BEYOND_CHANCE = 2.0  # standard deviations of what became right less what became wrong

Right = dict[str, npt.NDArray[np.bool_]]


class House:
    """A fleet with its database; days are simulated, so times are set back to the day they stand for."""

    def __init__(
        self, engine: Engine, fleet: Fleet, *, encoder: KeptEncodings, settings: LearnerSettings, nights: int, seed: int
    ) -> None:
        self.engine, self.encoder, self.settings = engine, encoder, settings
        self.rng = np.random.default_rng(seed)
        self.first_day = datetime.now(UTC) - timedelta(days=nights + 1)
        first = build_first_version(fleet, encoder=encoder, seed=seed, settings=settings)
        with engine.begin() as conn:
            number = publish(conn, first, actor="benchmark", reason="first version", parent=None).number
            self.version: RouterVersion = load(conn, number)
        self.router = Router(self.version)

    def live(self, day: int, queries: Sequence[Query], manners: Manners) -> None:
        """One day: every query is decided, judged and perhaps asked again in parts; everything is stored."""
        recording = Recording(store_text="full", key=b"benchmark")
        users = Users(manners=manners, decide=self._decide, recording=recording, rng=self.rng)
        log = Day([], [])
        for i, query in enumerate(queries):
            at = self.first_day + timedelta(days=day, seconds=80_000 * i / len(queries))
            users.ask(query, at=at, session=f"{day}-{i}", into=log)
        with self.engine.begin() as conn:
            for start in range(0, len(log.inferences), 500):
                store_inferences(conn, log.inferences[start : start + 500])
            for start in range(0, len(log.votes), 500):
                store_feedback(conn, log.votes[start : start + 500])
            for table in ("inference", "feedback"):
                conn.execute(text(f"update {table} set received_at = occurred_at where received_at <> occurred_at"))  # noqa: S608

    def _decide(self, query: str) -> Decision:
        (encoding,) = self.encoder.encode([query])
        return decide(self.router, query, encoding, encode=self.encoder.encode, inference_id=new_id(), rng=self.rng)

    def night(self, day: int) -> NightResult:
        """Run the night after ``day``; what it publishes serves from now on."""
        end = self.first_day + timedelta(days=day + 1)
        result = run_night(self.engine, encoder=self.encoder, settings=self.settings, actor="benchmark", until=end)
        if result.verdict == "published":
            with self.engine.connect() as conn:
                self.version = load(conn, result.version)
            self.router = Router(self.version)
        return result

    def measured(self, queries: Sequence[Query]) -> tuple[dict[str, float], Right]:
        """The metrics of what serves now on queries that nobody asked, and which are right: cut, and routes."""
        arrays = self.version.splitter

        def split(query: str, encoding: Encoding) -> Spans:
            return cut(query, boundaries(arrays, encoding, query), threshold=THRESHOLD)

        found = measure(Contender("trimtab", split, self.encoder, arrays), queries)
        called = called_routes(self.version, arrays, queries, encoder=self.encoder)
        encodings = self.encoder.encode([query.text for query in queries])
        cuts = [split(query.text, encoding) == query.spans for query, encoding in zip(queries, encodings, strict=True)]
        routes = [set(some) == set(query.domains) for query, some in zip(queries, called, strict=True)]
        return found | routing_metrics(called, queries), {"exact": np.array(cuts), "routes": np.array(routes)}


def run_seed(args: argparse.Namespace, pools: Mapping[str, Mapping[str, Sequence[str]]], *, seed: int) -> list[Row]:
    """One repeat: a fleet of its own, a database of its own."""
    rng = np.random.default_rng(seed)
    encoder = KeptEncodings(load_encoder(home=args.home))
    fleet, asked = _fleet(pools["train"], count=args.seeds_per_route, rng=rng)
    tests = {
        name: draw_queries(pools[args.split], count=args.tested, several=several, connectors=some, rng=rng)
        for name, several, some in (
            *(("unheard", _TESTED_SEVERAL, UNHEARD), ("known", _TESTED_SEVERAL, _known_connectors())),
            *(("bare", _TESTED_SEVERAL, ()), ("single", 0.0, ())),
        )
    }
    manners = Manners(
        several=args.several, rated=args.rated, flip=args.flip, bad_answer=args.bad_answer, asks_part=args.asks_part
    )
    rows: list[Row] = []
    right: dict[str, Right] = {}
    with empty_database(args.home) as engine:
        house = House(engine, fleet, encoder=encoder, settings=LearnerSettings(), nights=args.nights, seed=seed)
        rows += _rows(house, tests, right, seed=seed, night=0, rest={})
        for day in range(args.nights):
            queries = draw_queries(asked, count=args.per_night, several=args.several, connectors=UNHEARD, rng=rng)
            house.live(day, queries, manners)
            started = time.perf_counter()
            result = house.night(day)
            rest = {
                "night_seconds": time.perf_counter() - started,
                "mined": float(result.report["splitter"]["mined"]),
                "published": float(result.verdict == "published"),
            }
            rows += _rows(house, tests, right, seed=seed, night=day + 1, rest=rest)
            _tell(seed, day, result, rows[-len(tests) :])
    return rows


def _rows(
    house: House,
    tests: Mapping[str, Sequence[Query]],
    right: dict[str, Right],
    *,
    seed: int,
    night: int,
    rest: Mapping[str, float],
) -> list[Row]:
    """One row a test; ``right`` holds what was right the night before, and what is now when this is done."""
    rows = []
    for name, queries in tests.items():
        metrics, now = house.measured(queries)
        if name in right:
            metrics |= compared(right[name], now)
        right[name] = now
        rows.append(Row(name=f"{name}, night {night}", repeat=seed, metrics={**metrics, **rest}))
    return rows


def compared(before: Right, now: Right) -> dict[str, float]:
    """How the same queries fare as against the night before.

    Returns:
        ``step``: what the share of queries with the right routes gained. ``worse``: 1 where beyond chance more queries
        are no longer right than newly right, cut or in their routes; that is (lost - gained) > 2 sqrt(lost + gained).
    """
    worse = 0.0
    for figure, was in before.items():
        lost, gained = int((was & ~now[figure]).sum()), int((now[figure] & ~was).sum())
        worse = max(worse, float(lost - gained > _BEYOND_CHANCE * (lost + gained) ** 0.5))
    return {"step": float(now["routes"].mean() - before["routes"].mean()), "worse": worse}


def _fleet(
    pools: Mapping[str, Sequence[str]], *, count: int, rng: np.random.Generator
) -> tuple[Fleet, dict[str, list[str]]]:
    """A fleet with ``count`` examples a route, and the other questions, which users ask."""
    mixed = {route: [asked[i] for i in rng.permutation(len(asked))] for route, asked in sorted(pools.items())}
    routes = tuple(Route(name=route, utterances=tuple(asked[:count])) for route, asked in mixed.items())
    return Fleet(fallback=routes[0].name, routes=routes), {r: asked[count:] for r, asked in mixed.items()}


def _known_connectors() -> list[str]:
    return [words.strip() for family, some in CONNECTORS.items() if family not in ("mark", "order") for words in some]


def _tell(seed: int, day: int, result: NightResult, rows: Sequence[Row]) -> None:
    shown = "  ".join(
        f"{row.name.split(',')[0]} exact {row.metrics['exact']:.3f} routes {row.metrics['routes_exact']:.3f}"
        f"{' WORSE' if row.metrics['worse'] else ''}"
        for row in rows
    )
    heard = ", ".join(result.report["splitter"]["connectors"])
    print(f"seed {seed} night {day + 1} {result.report['sentence']}\n  {shown}\n  heard: {heard}", flush=True)


def _pools(path: Path, *, label: str, split: str) -> dict[str, dict[str, list[str]]]:
    """Single questions by route, of the train part and of the part that is scored."""
    found: dict[str, dict[str, list[str]]] = {}
    for part in ("train", split):
        for query in read_queries(path, split=part, label=label):
            if len(query.spans) == 1 and query.domains:
                found.setdefault(part, {}).setdefault(query.domains[0], []).append(query.text)
    return found


def main() -> None:
    """Read the command line, run all repeats, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.splitter_nights", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="JSON lines with text, LABEL, split")
    add("--label", default="domain", help="the column whose values are the routes")
    add("--split", default="test", help="the part whose questions are scored; tune on val")
    add("--nights", type=int, default=5)
    add("--per-night", type=int, default=800, help="queries a night")
    add("--several", type=float, default=0.4, help="share of the queries that ask two or three things")
    add("--rated", type=float, default=0.3, help="chance of a vote on an answer")
    add("--flip", type=float, default=0.05, help="share of the votes that say the opposite")
    add("--bad-answer", type=float, default=0.10, help="share of the right route's answers that are bad")
    add("--asks-part", type=float, default=0.7, help="chance that a part that was not answered is asked again")
    add("--seeds-per-route", type=int, default=20, help="examples of each route in the fleet")
    add("--tested", type=int, default=500, help="held-out queries of each kind")
    add("--repeats", type=int, default=3, help="seeds")
    add("--seed", type=int, default=0, help="the first seed")
    add("--home", type=Path, default=Path(tempfile.gettempdir()) / "trimtab-benchmarks")
    add("--json", type=Path, help="write raw figures here")
    args = parser.parse_args()
    pools = _pools(args.data, label=args.label, split=args.split)
    rows = [row for seed in range(args.seed, args.seed + args.repeats) for row in run_seed(args, pools, seed=seed)]
    report = BenchmarkReport(benchmark="splitter_nights", args=vars(args), rows=rows)
    report.print_table((*_SHOWN, *_ALSO))
    nights = [row.metrics for row in rows if "worse" in row.metrics]
    worst = min((metrics["step"] for metrics in nights), default=0.0)
    print(f"worse: {sum(metrics['worse'] for metrics in nights):.0f} of {len(nights)}; worst step {worst:+.3f}")
    if args.json:
        report.write_json(args.json)


if __name__ == "__main__":
    main()
