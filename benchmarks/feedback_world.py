"""The world of ``benchmarks.feedback_loop``: whose questions come, what they are about, how that changes."""

import argparse
import contextlib
import gzip
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from api.demo.simulated_users import Habits
from router.encoder import Encoding, load_encoder

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[np.float32]


class TextEncoder(Protocol):
    """What embeds: the real encoder."""

    @property
    def fingerprint(self) -> str:
        """Names the encoder."""

    def embed(self, texts: Sequence[str]) -> Array:
        """Embeddings (n, D)."""


class KnownEmbeddings:
    """An encoder that embeds each text of a file once, ahead; a repeat of the benchmark only looks them up."""

    def __init__(self, texts: Sequence[str], embeddings: Array, *, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.dimension = int(embeddings.shape[1])
        self._embeddings = embeddings
        self._row = {text: row for row, text in enumerate(texts)}

    def embed(self, texts: Sequence[str]) -> Array:
        """Embeddings (n, D) of known texts."""
        return self._embeddings[[self._row[text] for text in texts]]

    def encode(self, texts: Sequence[str], *, hidden: bool = False) -> list[Encoding]:
        """Encodings without hidden states: the questions here are single ones and are not split."""
        del hidden
        return [Encoding(embedding=row) for row in self.embed(texts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All rows of a file: texts, embeddings (n, D), ``label`` (n,) positions in ``routes`` (-1: out of scope), intents.

    ``stream`` are the rows that users may ask, ``score`` those that accuracy is measured on, ``alien`` out-of-scope
    rows of the same split.
    """

    texts: tuple[str, ...]
    X: Array
    routes: tuple[str, ...]
    label: Ints
    intent: npt.NDArray[np.str_]
    stream: Ints
    score: Ints
    alien: Ints


class UnusableData(ValueError):
    """The file has no questions to learn from or to score."""


def read_world(path: Path, *, label: str, split: str, encoder: TextEncoder, kept: Path | None = None) -> World:
    """Read rows ``{text, LABEL, intent?, split?, oos?}`` and embed them; ``kept`` is a file of embeddings to reuse.

    Rows without a label are left out unless they are out of scope; a row without a split belongs to the stream. Where
    the split to score is missing, every fifth question of the stream is kept for it instead, and said so.

    Raises:
        UnusableData: fewer than two routes, or nothing to score.
    """
    rows = _rows(path, label=label)
    alien = np.array([bool(row.get("oos")) for row in rows])
    part = _parts(rows, split=split, alien=alien)
    routes = tuple(
        sorted({str(r[label]) for r, p, out in zip(rows, part, alien, strict=True) if p == "train" and not out})
    )
    if len(routes) < 2:
        raise UnusableData(f"{path}: the column {label!r} must have two values or more among the rows to learn from.")
    position = {route: i for i, route in enumerate(routes)}
    known = np.array([-1 if out else position.get(str(r[label]), -1) for r, out in zip(rows, alien, strict=True)])
    return World(
        texts=tuple(str(row["text"]) for row in rows),
        X=embedded([str(row["text"]) for row in rows], encoder=encoder, kept=kept),
        routes=routes,
        label=known,
        intent=np.array([str(row.get("intent", row.get(label))) for row in rows]),
        stream=np.flatnonzero((part == "train") & (known >= 0)),
        score=np.flatnonzero((part == "score") & (known >= 0)),
        alien=np.flatnonzero((part == "score") & alien),
    )


def _rows(path: Path, *, label: str) -> list[dict[str, object]]:
    data = path.read_bytes()
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().split("\n")
    rows = [row for row in map(json.loads, filter(str.strip, lines)) if row.get("request", True)]
    return [row for row in rows if row.get("oos") or row.get(label) is not None]


def _parts(rows: Sequence[dict[str, object]], *, split: str, alien: npt.NDArray[np.bool_]) -> npt.NDArray[np.str_]:
    """``train``, ``score`` or nothing for each row."""
    names = {"val": ("val", "dev", "validation"), "test": ("test",)}
    given = np.array([str(row.get("split", "train")) for row in rows])
    part = np.where(given == "train", "train", np.where(np.isin(given, names[split]), "score", ""))
    if not (part[~alien] == "score").any():
        print(f"There is no split {split!r}: every fifth question of the stream is kept to be scored.", flush=True)
        part[np.flatnonzero((part == "train") & ~alien)[::5]] = "score"
        part[alien] = "score"
    return part


def embedded(texts: Sequence[str], *, encoder: TextEncoder, kept: Path | None) -> Array:
    """Embeddings of the texts (n, D), from the file ``kept`` where it holds as many; written there otherwise."""
    if kept is not None and kept.exists():
        found: Array = np.load(kept)
        if len(found) == len(texts):
            return found
    X = encoder.embed(texts)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, X)
    return X


def draw_examples(world: World, *, count: int, rng: np.random.Generator) -> dict[str, Ints]:
    """Choose ``count`` rows of the stream for each route: what the operator wrote into the fleet."""
    return {
        route: rng.choice(own, size=min(count, len(own)), replace=False)
        for i, route in enumerate(world.routes)
        for own in [world.stream[world.label[world.stream] == i]]
    }


def draw_stream(
    world: World, *, nights: int, per_night: int, zipf: float, without: Ints, rng: np.random.Generator
) -> Ints:
    """Choose the questions of all nights in order, (nights, per_night) rows of the file.

    Each row comes once before any comes again; with ``zipf`` > 0 intents come with probability 1/rank^zipf instead,
    in a random ranking.
    """
    pool = np.setdiff1d(world.stream, without)
    total = nights * per_night
    if zipf <= 0:
        rounds = [rng.permutation(pool) for _ in range(-(-total // len(pool)))]
        return np.concatenate(rounds)[:total].reshape(nights, per_night)
    names, intent = np.unique(world.intent[pool], return_inverse=True)
    rank = rng.permutation(len(names)) + 1
    chance = (1.0 / rank**zipf)[intent] / np.bincount(intent)[intent]
    return rng.choice(pool, size=total, p=chance / chance.sum()).reshape(nights, per_night)


def drifted(world: World, *, intents: int, rng: np.random.Generator) -> World:
    """The world in which so many intents belong to another route than before."""
    names = np.unique(world.intent[world.stream])
    label = world.label.copy()
    for name in rng.choice(names, size=min(intents, len(names)), replace=False):
        rows = (world.intent == name) & (label >= 0)
        step = int(rng.integers(1, len(world.routes)))
        label[rows] = (label[rows] + step) % len(world.routes)
    return replace(world, label=label)


@contextlib.contextmanager
def open_world(options: argparse.Namespace, *, split: str) -> Iterator[tuple[World, KnownEmbeddings, Path]]:
    """Read the world of the arguments, scored on ``split``; yield it, its encoder and the folder to work in."""
    with tempfile.TemporaryDirectory(prefix="trimtab-benchmark-") as folder:
        home = options.home or Path(folder)
        encoder = load_encoder(options.encoder, home=home)
        world = read_world(options.data, label=options.label, split=split, encoder=encoder, kept=options.embeddings)
        yield world, KnownEmbeddings(world.texts, world.X, fingerprint=encoder.fingerprint), home


def add_world_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say whose questions come, how users behave and where things lie."""
    add = parser.add_argument
    add("--data", type=Path, required=True, help="JSON lines with text, LABEL, split; intent and oos where known")
    add("--label", default="domain", help="the column whose values are the routes")
    add_user_arguments(parser)
    add("--seeds-per-route", type=int, default=10, help="examples of each route in the fleet")
    add_run_arguments(parser)


def add_user_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say how many questions come and how users behave."""
    add = parser.add_argument
    add("--per-night", type=int, default=1000, help="questions a night")
    add("--rated", type=float, default=0.10, help="share of the answers that are voted on")
    add("--flip", type=float, default=0.10, help="share of the votes that say the opposite")
    add("--bad-answer", type=float, default=0.10, help="share of the right route's answers that are bad")
    add("--reask", type=_rates, default=(0.06, 0.30), help="chance to ask again after a good and after a bad answer")
    add("--explore", type=float, default=0.02, help="share of the questions that explore")


def user_habits(options: argparse.Namespace) -> Habits:
    """The users that ``add_user_arguments`` describe: none of them lies, and no route answers worse than others."""
    good, bad = options.reask
    return Habits(rated=options.rated, flip=options.flip, bad_answer=options.bad_answer, reask_good=good, reask_bad=bad)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the first seed, the encoder, and where things lie."""
    add = parser.add_argument
    add("--seed", type=int, default=0, help="the first seed")
    add("--encoder", help="a sentence-transformers name or folder")
    add("--embeddings", type=Path, help="file (.npy) that keeps the embeddings from one run to the next")
    add("--home", type=Path, help="folder for the database and the encoder; a temporary one when left out")
    add("--json", type=Path, help="write raw figures and summary")


def _rates(value: str) -> tuple[float, float]:
    good, bad = map(float, value.split(","))
    return good, bad
