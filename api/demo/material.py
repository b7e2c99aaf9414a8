"""What the demo asks: the sample shop, or any labelled file, as a fleet, traffic and tests that are never sent."""

import gzip
import json
import random
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
SEEDS_A_ROUTE = 10
_MOST_TESTS = 1_000
_JOINTS = (", and ", " and ", ". ", "; also ", " ")


class WrongDemoData(ValueError):
    """The file cannot be used for the demo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question and which parts of it (start, end) belong to which routes; one part covers all of a plain question."""

    text: str
    parts: tuple[tuple[int, int, str], ...]

    @property
    def routes(self) -> tuple[str, ...]:
        """The right routes, in the order of the parts."""
        return tuple(route for _, _, route in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A fleet (YAML), the traffic's questions, and the tests; ``fallback`` is right for what nobody should answer."""

    fleet: str
    fallback: str
    traffic: tuple[Question, ...]
    tests: tuple[Question, ...]


def sample_material() -> Material:
    """Return the sample shop."""
    rows = [json.loads(line) for line in (FOLDER / "sample_traffic.jsonl").read_text(encoding="utf-8").splitlines()]
    questions: dict[str, list[Question]] = {"traffic": [], "test": []}
    for row in rows:
        segments = row.get("segments") or [{"start": 0, "end": len(row["text"]), "route": row["route"] or "general"}]
        parts = tuple((s["start"], s["end"], s["route"]) for s in segments)
        questions[row["split"]].append(Question(text=row["text"], parts=parts))
    return Material(
        fleet=(FOLDER / "sample_fleet.yaml").read_text(encoding="utf-8"),
        fallback="general",
        traffic=tuple(questions["traffic"]),
        tests=tuple(questions["test"]),
    )


def labelled_material(path: Path, *, label: str, seed: int) -> Material:
    """Return the questions of a labelled file: every value of ``label`` is a route with ten examples from ``train``.

    Raises:
        WrongDemoData: the file is missing, is not JSON lines, or has too little in it; one sentence.
    """
    rows = _rows(path, label=label)
    dice = random.Random(seed)
    train = [row for row in rows if row.get("split") == "train" and not row.get("oos")]
    by_route: dict[str, list[str]] = {}
    for row in train:
        by_route.setdefault(str(row[label]), []).append(row["text"])
    if len(by_route) < 2 or any(len(set(texts)) < SEEDS_A_ROUTE + 1 for texts in by_route.values()):
        raise WrongDemoData(
            f"{path}: it needs at least two values of {label!r} with over {SEEDS_A_ROUTE} rows each in split 'train'."
        )
    fallback = _unused("general", by_route)
    examples, traffic = {}, []
    for route, texts in sorted(by_route.items()):
        distinct = sorted(set(texts))
        dice.shuffle(distinct)
        examples[route] = distinct[:SEEDS_A_ROUTE]
        traffic += [_plain(text, route) for text in distinct[SEEDS_A_ROUTE:]]
    tests = [_plain(r["text"], str(r[label])) for r in rows if r.get("split") == "test" and not r.get("oos")]
    tests = [q for q in tests if q.routes[0] in by_route]
    if not tests:
        raise WrongDemoData(f"{path}: it has no rows of split 'test'.")
    nobody = [_plain(row["text"], fallback) for row in rows if row.get("oos") and row.get("split") == "test"]
    chosen = dice.sample(tests, min(_MOST_TESTS, len(tests)))
    spanning = _spanning(tests, dice, count=100) + dice.sample(nobody, min(100, len(nobody)))
    return Material(
        fleet=_fleet_yaml(examples, fallback=fallback),
        fallback=fallback,
        traffic=tuple(traffic + _spanning(traffic, dice, count=max(100, len(traffic) // 10))),
        tests=tuple(chosen + spanning),
    )


def _rows(path: Path, *, label: str) -> list[dict[str, Any]]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except FileNotFoundError:
        raise WrongDemoData(f"{path}: there is no such file.") from None
    except (OSError, EOFError, ValueError, zlib.error):
        raise WrongDemoData(f"{path}: it is not a file of JSON lines (.jsonl or .jsonl.gz).") from None
    whole = [row for row in rows if isinstance(row, dict) and isinstance(row.get("text"), str) and row["text"].strip()]
    if not whole or not any(label in row for row in whole):
        raise WrongDemoData(f"{path}: its rows need a text and the field {label!r} (choose another with --label).")
    return [row for row in whole if label in row]


def _unused(name: str, taken: Iterable[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _plain(text: str, route: str) -> Question:
    return Question(text=text, parts=((0, len(text), route),))


def _spanning(questions: list[Question], dice: random.Random, *, count: int) -> list[Question]:
    """Questions that ask two things of two routes."""
    made: list[Question] = []
    while len(made) < count:
        a, b = dice.sample(questions, 2)
        if a.routes == b.routes:
            continue
        joint = dice.choice(_JOINTS)
        start = len(a.text) + len(joint)
        parts = ((0, len(a.text), a.routes[0]), (start, start + len(b.text), b.routes[0]))
        made.append(Question(text=a.text + joint + b.text, parts=parts))
    return made


def _fleet_yaml(examples: Mapping[str, list[str]], *, fallback: str) -> str:
    routes: list[dict[str, Any]] = [
        {
            "name": route,
            "description": route.replace("_", " "),
            "utterances": texts,
            "model": f"{route}-slm",
            "input_cost_per_token": 1e-7,
            "output_cost_per_token": 2e-7,
        }
        for route, texts in examples.items()
    ]
    routes.append({"name": fallback, "description": "Anything else", "model": "general-slm"})
    return str(yaml.safe_dump({"fallback": fallback, "routes": routes}, allow_unicode=True, sort_keys=False))
