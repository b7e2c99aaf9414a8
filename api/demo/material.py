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

from router.fleet import FleetError, parse_fleet
from telemetry.golden import can_be_kept

FOLDER = Path(__file__).parent
SEEDS_A_ROUTE = 10
_MOST_TESTS = 1_000
_LONGEST_TEXT = 2_000
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
    by_route = _by_route(rows, label=label)
    if len(by_route) < 2 or any(len(texts) <= SEEDS_A_ROUTE for texts in by_route.values()):
        raise WrongDemoData(
            f"{path}: it needs at least two values of {label!r} with over {SEEDS_A_ROUTE} questions each in split"
            " 'train'."
        )
    fallback = _unused("general", by_route)
    traffic = [_plain(row["text"], fallback) for row in rows if row["split"] == "train" and row.get("oos")]
    examples = {}
    for route, texts in by_route.items():
        dice.shuffle(texts)
        examples[route] = texts[:SEEDS_A_ROUTE]
        traffic += [_plain(text, route) for text in texts[SEEDS_A_ROUTE:]]
    return Material(
        fleet=_fleet_yaml(examples, fallback=fallback, label=label, source=path),
        fallback=fallback,
        traffic=tuple(traffic + _spanning(traffic, dice, count=max(100, len(traffic) // 10), without=fallback)),
        tests=_tests(rows, by_route, dice, label=label, fallback=fallback, source=path),
    )


def _by_route(rows: list[dict[str, Any]], *, label: str) -> dict[str, list[str]]:
    """The distinct questions of split ``train`` for every value of ``label``, both in the order of the alphabet."""
    found: dict[str, set[str]] = {}
    for row in rows:
        if row["split"] == "train" and not row.get("oos"):
            found.setdefault(str(row[label]), set()).add(row["text"])
    return {route: sorted(texts) for route, texts in sorted(found.items())}


def _tests(
    rows: list[dict[str, Any]],
    by_route: Mapping[str, list[str]],
    dice: random.Random,
    *,
    label: str,
    fallback: str,
    source: Path,
) -> tuple[Question, ...]:
    """A sample of split ``test``: plain questions, spanning ones put together of them, and questions for nobody.

    What stands in split ``train`` too, or is marked ``seen_in_train``, is left out: a test is never sent.
    """
    sent = {_folded(row["text"]) for row in rows if row["split"] == "train"}
    test = [row for row in rows if row["split"] == "test" and not row.get("seen_in_train")]
    test = [row for row in test if _folded(row["text"]) not in sent]
    plain = [_plain(r["text"], str(r[label])) for r in test if not r.get("oos") and str(r[label]) in by_route]
    if not plain:
        raise WrongDemoData(f"{source}: it has no questions of these routes in split 'test'.")
    nobody = [_plain(row["text"], fallback) for row in test if row.get("oos")]
    return (
        *dice.sample(plain, min(_MOST_TESTS, len(plain))),
        *_spanning(plain, dice, count=100, without=fallback),
        *dice.sample(nobody, min(100, len(nobody))),
    )


def _rows(path: Path, *, label: str) -> list[dict[str, Any]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WrongDemoData(f"{path}: {(error.strerror or 'it cannot be read').lower()}.") from None
    try:
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, EOFError, ValueError, RecursionError, zlib.error):
        raise WrongDemoData(f"{path}: it is not a file of JSON lines (.jsonl or .jsonl.gz).") from None
    whole = [row for row in rows if isinstance(row, dict) and _is_question(row)]
    usable = [row for row in whole if row.get("oos") or _names_route(row.get(label))]
    if all(row.get("oos") for row in usable):
        raise WrongDemoData(
            f"{path}: its rows need text, split and the field {label!r} (choose another field with --label)."
        )
    return usable


def _names_route(value: object) -> bool:
    return isinstance(value, str | int) and _is_text(str(value))


def _is_question(row: dict[str, Any]) -> bool:
    """Whether a row has a text that can be asked and a split; rows marked ``request: false`` ask nothing."""
    text = row.get("text")
    asks = isinstance(text, str) and _is_text(text) and len(text) <= _LONGEST_TEXT
    return asks and isinstance(row.get("split"), str) and row.get("request") is not False


def _is_text(value: str) -> bool:
    """Whether it says something and can be stored: JSON can hold NUL and halves of characters."""
    return bool(value.strip()) and can_be_kept(value)


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _unused(name: str, taken: Iterable[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _plain(text: str, route: str) -> Question:
    return Question(text=text, parts=((0, len(text), route),))


def _spanning(questions: list[Question], dice: random.Random, *, count: int, without: str) -> list[Question]:
    """Questions that ask two things of two routes, none of them of the route ``without``."""
    usable = [question for question in questions if question.routes != (without,)]
    if len({question.routes for question in usable}) < 2:
        return []
    made: list[Question] = []
    while len(made) < count:
        a, b = dice.sample(usable, 2)
        if a.routes == b.routes:
            continue
        joint = dice.choice(_JOINTS)
        start = len(a.text) + len(joint)
        parts = ((0, len(a.text), a.routes[0]), (start, start + len(b.text), b.routes[0]))
        made.append(Question(text=a.text + joint + b.text, parts=parts))
    return made


def _fleet_yaml(examples: Mapping[str, list[str]], *, fallback: str, label: str, source: Path) -> str:
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
    text = str(yaml.safe_dump({"fallback": fallback, "routes": routes}, allow_unicode=True, sort_keys=False))
    try:
        parse_fleet(text, source="the fleet made of it")
    except FleetError as error:
        line = text.splitlines()[error.line - 1].strip("- ") if error.line else ""
        where = line if line.startswith(f"{error.key}:") else error.key
        raise WrongDemoData(f"{source}: the values of {label!r} make no routes; {where}: {error.problem}.") from None
    return text
