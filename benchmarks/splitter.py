"""How well queries are split: ``python -m benchmarks.splitter --train F --test G [--test H ...]``.

F and G are JSON lines (``.gz`` or not) with ``text``, ``split`` and ``segments`` of exact character offsets, each with
an ``intent`` and, where queries are to be routed too, a ``domain``. A test file without segments is taken for single
questions. Where a test file names its connectors its segments are joined anew in two further tests: without any
connector, and with families of connectors that nothing was trained on.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.report import BenchmarkReport, Row
from benchmarks.splitter_baselines import Spans, by_rules, by_sentences, never
from benchmarks.splitter_data import HELD_OUT, Query, as_examples, held_out_connectors, pools, read_queries, rejoined
from benchmarks.splitter_routing import added_milliseconds, called_routes, routed_version, routing_metrics
from learner.concatenate import SplitExample, concatenations
from learner.splitter_training import train_splitter
from router.encoder import Encoder, Encoding, load_encoder
from router.splitter import Array, boundaries, cut

_SHOWN = (
    *("boundary_precision", "boundary_recall", "boundary_f1", "exact", "count_accuracy", "over_split"),
    *("calls_per_query", "ms_p50", "ms_p95", "routes_exact", "unneeded_splits", "missed_splits"),
    *("added_ms_p95", "parameters", "bytes", "train_cpu_seconds"),
)
_REPLAYED = 3000
THRESHOLD = 0.5
MADE_WEIGHT = 0.75  # what is given is truer than what is put together
FEWEST_MADE = 6000
UNSEEN = "unseen connectors"


class KeptEncodings:
    """Encodes each text once and keeps it, hidden states in half precision; ``seen`` are the columns it shows."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._kept: dict[str, tuple[Encoding, npt.NDArray[np.float16]]] = {}
        self.seen = slice(None)

    def encode(self, texts: Sequence[str], *, hidden: bool = True) -> list[Encoding]:
        """Encodings of texts, in order."""
        new = sorted(set(texts) - set(self._kept))
        for at in range(0, len(new), 512):
            chunk = new[at : at + 512]
            for text, one in zip(chunk, self._encoder.encode(chunk, hidden=True), strict=True):
                states = np.zeros(0) if one.hidden is None else one.hidden
                self._kept[text] = replace(one, hidden=None), states.astype(np.float16)
        found = [self._kept[text] for text in texts]
        return [replace(one, hidden=states[:, self.seen].astype(np.float32)) for one, states in found]

    @property
    def fingerprint(self) -> str:
        """Names the encoder."""
        return self._encoder.fingerprint

    @property
    def dimension(self) -> int:
        """Of the embeddings."""
        return self._encoder.dimension

    def embed(self, texts: Sequence[str]) -> Array:
        """Embeddings (n, D)."""
        kept = [one.embedding for one in self.encode(texts)]
        return np.stack(kept) if kept else np.zeros((0, self.dimension), np.float32)

    def last_layer(self) -> "KeptEncodings":
        """The same encodings, of which only the last layer's hidden states are shown."""
        other = KeptEncodings(self._encoder)
        other._kept, other.seen = self._kept, slice(2 * self._encoder.dimension, None)
        return other


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to split: from a query and its encoding to spans; and the arrays that it is made of."""

    name: str
    split: Callable[[str, Encoding], Spans]
    encoder: KeptEncodings
    arrays: Mapping[str, Array] = field(default_factory=dict)
    train_seconds: float = 0.0
    train_cpu_seconds: float = 0.0


def trained(
    name: str,
    examples: Sequence[SplitExample],
    *,
    encoder: KeptEncodings,
    seed: int,
    warm_start: Mapping[str, Array] | None = None,
) -> Contender:
    """Train a splitter and make it a contender; the time is that of the training, encodings being kept."""
    encoder.encode([example.text for example in examples])
    started, busy = time.perf_counter(), time.process_time()
    arrays = train_splitter(examples, encoder=encoder, seed=seed, warm_start=warm_start)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - busy

    def split(query: str, encoding: Encoding) -> Spans:
        return cut(query, boundaries(arrays, encoding, query), threshold=THRESHOLD)

    return Contender(name, split, encoder, arrays, train_seconds=seconds, train_cpu_seconds=cpu_seconds)


def measure(contender: Contender, queries: Sequence[Query]) -> dict[str, float]:
    """All metrics of one contender on one test."""
    hits = found = wanted = exact = counted = calls = 0
    singles = over = 0
    milliseconds = []
    contender.encoder.encode([query.text for query in queries])
    for query in queries:
        (encoding,) = contender.encoder.encode([query.text])
        started = time.perf_counter()
        spans = contender.split(query.text, encoding)
        milliseconds.append((time.perf_counter() - started) * 1e3)
        starts, gold = {start for start, _ in spans[1:]}, {start for start, _ in query.spans[1:]}
        hits, found, wanted = hits + len(starts & gold), found + len(starts), wanted + len(gold)
        exact, counted, calls = (
            exact + (spans == query.spans),
            counted + (len(spans) == len(query.spans)),
            calls + len(spans),
        )
        singles, over = singles + (not gold), over + (not gold and bool(starts))
    metrics = {"exact": exact / len(queries), "count_accuracy": counted / len(queries)}
    if wanted:
        metrics |= {
            "boundary_precision": hits / found if found else 1.0,
            "boundary_recall": hits / wanted,
            "boundary_f1": 2 * hits / (found + wanted),
        }
    if singles:
        metrics["over_split"] = over / singles
    return metrics | {
        "calls_per_query": calls / len(queries),
        "ms_p50": float(np.percentile(milliseconds, 50)),
        "ms_p95": float(np.percentile(milliseconds, 95)),
        "parameters": float(sum(array.size for array in contender.arrays.values())),
        "bytes": float(sum(array.nbytes for array in contender.arrays.values())),
        "train_seconds": contender.train_seconds,
        "train_cpu_seconds": contender.train_cpu_seconds,
    }


def examples_of(
    train: Sequence[Query], *, extra: int | None, seed: int, without: Collection[str] = ()
) -> list[SplitExample]:
    """The given queries, and concatenations of their segments: ``extra``, or as many again and 6,000 at least."""
    count = max(FEWEST_MADE, len(train)) if extra is None else extra
    made = concatenations(pools(train), count=count, seed=seed, without=without)
    return as_examples(train) + [replace(example, weight=MADE_WEIGHT) for example in made]


def contenders(train: Sequence[Query], *, encoder: KeptEncodings, extra: int | None, seed: int) -> list[Contender]:
    """Ours, trained on the given queries and on concatenations of their segments, and the baselines."""
    examples = examples_of(train, extra=extra, seed=seed)
    sentences = by_sentences()
    return [
        trained("trimtab", examples, encoder=encoder, seed=seed),
        trained("last_layer", examples, encoder=encoder.last_layer(), seed=seed),
        Contender("regex", lambda query, _: by_rules(query), encoder),
        Contender("sentences", lambda query, _: sentences(query), encoder),
        Contender("no_split", lambda query, _: never(query), encoder),
    ]


def tests_of(path: Path, *, split: str, limit: int | None, seed: int) -> dict[str, list[Query]]:
    """The queries of a test file and, where it names connectors, the same segments joined in other ways."""
    name, queries = path.name.split(".")[0], read_queries(path, split=split, limit=limit)
    tests = {name: queries}
    if any(query.joined for query in queries):
        tests[f"{name}, no connector"] = rejoined(queries, connectors=None, seed=seed)
        tests[f"{name}, {UNSEEN}"] = rejoined(queries, connectors=held_out_connectors(), seed=seed)
    return {name: queries for name, queries in tests.items() if queries}


def run(args: argparse.Namespace, encoder: Encoder) -> list[Row]:
    """Train once a seed, then measure every contender on every test."""
    rows: list[Row] = []
    kept = KeptEncodings(encoder)
    train = read_queries(args.train, split="train", limit=args.limit)
    version = routed_version(train, encoder=encoder, seed=args.seed) if all(q.domains for q in train) else None
    found = contenders(train, encoder=kept, extra=args.concatenations, seed=args.seed)
    unaware = _unaware(train, encoder=kept, args=args)
    for path in args.test:
        adapted = [_adapted(found[0], path, train, encoder=kept, args=args)] if args.adapt else []
        for name, queries in tests_of(path, split=args.split, limit=args.limit, seed=args.seed).items():
            routed = version is not None and all(set(query.domains) for query in queries)
            learned = unaware if name.endswith(UNSEEN) else [*found[:2], *adapted]
            for contender in (*learned, *found[2:]):
                metrics = measure(contender, queries)
                if routed and version and contender.name == "trimtab":
                    called = called_routes(version, contender.arrays, queries, encoder=encoder)
                    metrics |= routing_metrics(called, queries)
                    metrics |= added_milliseconds(version, contender.arrays, queries, encoder=encoder)
                rows.append(Row(name=contender.name, repeat=name, metrics=metrics))
    rows += [_timed_training(train, encoder=kept, args=args)] if args.time_training else []
    return rows


def _unaware(train: Sequence[Query], *, encoder: KeptEncodings, args: argparse.Namespace) -> list[Contender]:
    """The trained contenders once more, without the families of connectors that the test of unseen ones is made of."""
    if not any(query.joined for path in args.test for query in read_queries(path, split=args.split)):
        return []
    examples = examples_of(train, extra=args.concatenations, seed=args.seed, without=HELD_OUT)
    return [
        trained("trimtab", examples, encoder=encoder, seed=args.seed),
        trained("last_layer", examples, encoder=encoder.last_layer(), seed=args.seed),
    ]


def _timed_training(train: Sequence[Query], *, encoder: KeptEncodings, args: argparse.Namespace) -> Row:
    """How long the training takes on so many concatenations whose encodings are kept."""
    examples = concatenations(pools(train), count=args.time_training, seed=args.seed)
    ours = trained("trimtab", examples, encoder=encoder, seed=args.seed)
    metrics = {"train_seconds": ours.train_seconds, "train_cpu_seconds": ours.train_cpu_seconds}
    return Row(name="trimtab", repeat=f"training on {args.time_training} concatenations", metrics=metrics)


def _adapted(
    ours: Contender, path: Path, train: Sequence[Query], *, encoder: KeptEncodings, args: argparse.Namespace
) -> Contender:
    """Ours, trained on with a few concatenations of the test file's own single questions, and some old examples."""
    singles = [query for query in read_queries(path, split="train") if len(query.spans) == 1]
    examples = concatenations(pools(singles), count=args.adapt, seed=args.seed)
    examples += as_examples(train[:_REPLAYED])
    return trained("trimtab_adapted", examples, encoder=encoder, seed=args.seed, warm_start=ours.arrays)


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.splitter", description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="file whose train rows the splitter learns from")
    parser.add_argument("--test", type=Path, action="append", required=True, help="file to test on; may be repeated")
    parser.add_argument("--split", default="test", help="which rows of the test files; tune on val (dev counts as val)")
    parser.add_argument(
        "--concatenations", type=int, help="made of the train rows' segments beside them; as many, or 6,000 at least"
    )
    parser.add_argument("--time-training", type=int, default=5000, help="also time the training on so many; 0: do not")
    parser.add_argument("--adapt", type=int, default=0, help="also go on training with so many of each test file's own")
    parser.add_argument("--limit", type=int, help="read so many rows of each file at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "trimtab-benchmarks")
    parser.add_argument("--json", type=Path, help="write raw figures here")
    args = parser.parse_args()
    rows = run(args, load_encoder(home=args.home))
    report = BenchmarkReport(benchmark="splitter", args=vars(args), rows=rows)
    report.print_table(_SHOWN, by_repeat=True)
    if args.json:
        report.write_json(args.json)


if __name__ == "__main__":
    main()
