"""fleet.yaml to Fleet: whatever is wrong is one error that names file, line and key."""

import difflib
import math
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from router.fleet import Fleet, FleetError, Route
from router.rules import BadPattern, compile_keywords

MOST_BYTES = 8 << 20
MOST_ROUTES = 1_000
MOST_UTTERANCES = 10_000
MOST_KEYWORDS = 500
LONGEST_TEXT = 2_000
LONGEST_NAME = 100
LONGEST_KEYWORD = 200
_DEEPEST = 8
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # YAML 1.1, 5.1
_TAG = "tag:yaml.org,2002:"


def read_fleet_text(path: Path) -> str:
    """The text of the file.

    Raises:
        FleetError: it is missing, unreadable, too large or not UTF-8.
    """
    source = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise FleetError("there is no such file; write one or name another", source=source) from None
    except (OSError, ValueError) as error:
        folder = isinstance(error, IsADirectoryError)
        why = "it is a folder; name the file in it" if folder else f"the file cannot be read ({type(error).__name__})"
        raise FleetError(why, source=source) from None
    if len(data) > MOST_BYTES:
        raise FleetError(f"the file is larger than {MOST_BYTES >> 20} MiB; shorten it", source=source)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FleetError("the file is not UTF-8; save it as UTF-8", source=source, line=line) from None


def build_fleet(text: str, *, source: str) -> Fleet:
    """Check the text and build the fleet; see ``router.fleet.parse_fleet``."""
    reader = _Reader(source)
    return reader.fleet(reader.root(text))


class _Reader:
    """Walks the YAML nodes of one file; every method checks what it reads."""

    def __init__(self, source: str) -> None:
        self.source = source

    def error(self, node: Any, key: str, problem: str) -> FleetError:
        return FleetError(problem, source=self.source, line=node.start_mark.line + 1, key=key)

    def root(self, text: str) -> Any:
        """The tree of the file, refused when it is deep or uses aliases: a few lines of those expand to gigabytes."""
        if forbidden := _FORBIDDEN.search(text):
            line = text.count("\n", 0, forbidden.start()) + 1
            raise FleetError("there is a character that no text has, such as NUL", source=self.source, line=line)
        try:
            self._guard(text)
            root = yaml.compose(text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = f"this is not YAML: {error.problem or error.context}"
            raise FleetError(problem, source=self.source, line=mark.line + 1 if mark else None) from None
        if root is None:
            problem = "the file is empty; it needs the keys fallback and routes"
            raise FleetError(problem, source=self.source, line=1)
        return root

    def _guard(self, text: str) -> None:
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise self.error(event, "", "YAML aliases (*name) are not read; write the values out")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _DEEPEST:
                    raise self.error(event, "", f"nested more than {_DEEPEST} deep; a fleet is not")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1

    def fleet(self, root: Any) -> Fleet:
        entries = self.mapping(root, "the file", known=("fallback", "routes", "cost_weight"))
        for key in ("fallback", "routes"):
            if key not in entries:
                raise self.error(root, key, "is missing")
        items = self.sequence(entries["routes"], "routes", most=MOST_ROUTES)
        if not items:
            raise self.error(entries["routes"], "routes", "is empty; declare at least one route")
        fallback = self.name(entries["fallback"], "fallback")
        routes: list[Route] = []
        seen: dict[str, tuple[str, int]] = {}
        for node in items:
            route = self.route(node)
            line = node.start_mark.line + 1
            folded = unicodedata.normalize("NFKC", route.name).casefold()
            if folded in seen:
                other, first = seen[folded]
                raise self.error(
                    node, "name", f"{route.name!r} is the name of the route on line {first} too ({other!r})"
                )
            seen[folded] = (route.name, line)
            routes.append(route)
        names = [route.name for route in routes]
        if fallback not in names:
            hint = _nearest(fallback, names)
            raise self.error(entries["fallback"], "fallback", f"{fallback!r} is not the name of a route{hint}")
        for node, route in zip(items, routes, strict=True):
            of_models = "cost_weight" in entries and not any(other.utterances for other in routes)
            if not route.utterances and route.name != fallback and not of_models:
                problem = "are empty; give some example questions (or, to a fleet of models, none and a cost_weight)"
                raise self.error(node, f"utterances of route {route.name!r}", problem)
        weight = self.weight(entries["cost_weight"], "cost_weight") if "cost_weight" in entries else 0.0
        return Fleet(fallback=fallback, routes=tuple(routes), cost_weight=weight)

    def route(self, node: Any) -> Route:
        entries = self.mapping(node, "a route", known=tuple(_FIELDS))
        if "name" not in entries:
            raise self.error(node, "name", "is missing; every route needs one")
        name = self.name(entries["name"], "name")
        values = {key: _FIELDS[key](self, value, f"{key} of route {name!r}") for key, value in entries.items()}
        return Route(**{**values, "name": name})

    def mapping(self, node: Any, what: str, *, known: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, "", f"{what} must be keys with values, such as {known[0]}: ...")
        entries: dict[str, Any] = {}
        for key_node, value in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key not in known:
                raise self.error(key_node, _shown(key), f"is not a key of {what}{_nearest(key, known)}")
            if key in entries:
                raise self.error(key_node, key, "is written twice")
            entries[key] = value
        return entries

    def sequence(self, node: Any, key: str, *, most: int) -> list[Any]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, key, "must be a list")
        if len(node.value) > most:
            raise self.error(node, key, f"has {len(node.value)} entries; {most} are allowed")
        return list(node.value)

    def text(self, node: Any, key: str, *, longest: int = LONGEST_TEXT) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag != f"{_TAG}str":
            raise self.error(node, key, "must be text; put numbers, yes, no and dates into quotes")
        value = str(node.value)
        if any(unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t" for sign in value):
            raise self.error(node, key, "has a control character or half a character; remove it")
        if len(value) > longest:
            raise self.error(node, key, f"has {len(value)} characters; {longest} are allowed")
        return value

    def name(self, node: Any, key: str) -> str:
        value = self.text(node, key, longest=LONGEST_NAME)
        if not value or value != value.strip() or not value.isprintable():
            raise self.error(node, key, "must be one line of printable characters without blanks around it")
        return value

    def texts(self, node: Any, key: str) -> tuple[str, ...]:
        values = []
        for item in self.sequence(node, key, most=MOST_UTTERANCES):
            values.append(self.text(item, key).strip())
            if not values[-1]:
                raise self.error(item, key, "has an empty entry")
        return tuple(values)

    def keywords(self, node: Any, key: str) -> tuple[str, ...]:
        values = []
        for item in self.sequence(node, key, most=MOST_KEYWORDS):
            keyword = self.text(item, key, longest=LONGEST_KEYWORD).strip()
            if not keyword:
                raise self.error(item, key, "has an empty entry, which would match everything")
            try:
                pattern = compile_keywords([keyword])
            except BadPattern as error:
                raise self.error(item, key, f"{keyword!r} is not a pattern of google-re2: {error}") from None
            if pattern.search(b""):
                raise self.error(item, key, f"{keyword!r} matches every query")
            values.append(keyword)
        return tuple(values)

    def number(self, node: Any, key: str) -> float:
        # YAML 1.1 takes 1e-7 for text and true for a number's neighbour; we read what the operator sees.
        plain = isinstance(node, yaml.ScalarNode) and node.tag in (f"{_TAG}int", f"{_TAG}float", f"{_TAG}str")
        try:
            value = float(node.value) if plain and not node.style else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(node, key, "must be a number, such as 0.5 or 1.0e-7")
        return value

    def price(self, node: Any, key: str) -> float:
        value = self.number(node, key)
        if not 0 <= value <= 1:
            raise self.error(node, key, "must be between 0 and 1: US dollars a token")
        return value

    def weight(self, node: Any, key: str) -> float:
        value = self.number(node, key)
        if not 0 <= value <= 100:
            raise self.error(node, key, "must be between 0 and 100: how much more often a mean price must please")
        return value

    def similarity(self, node: Any, key: str) -> float:
        value = self.number(node, key)
        if not 0 <= value <= 1:
            raise self.error(node, key, "must be between 0 and 1: a cosine")
        return value

    def milliseconds(self, node: Any, key: str) -> float:
        value = self.number(node, key)
        if not 0 < value <= 86_400_000:
            raise self.error(node, key, "must be more than 0 and at most a day, in milliseconds")
        return value

    def tokens(self, node: Any, key: str) -> int:
        value = self.number(node, key)
        if not value.is_integer() or not 1 <= value <= 10_000_000:
            raise self.error(node, key, "must be a whole number of tokens, at least 1")
        return int(value)


def _shown(key: str | None) -> str:
    return "a key" if key is None else repr(key[:LONGEST_NAME])


def _nearest(word: str | None, known: tuple[str, ...] | list[str]) -> str:
    near = difflib.get_close_matches(word or "", known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known[:12])}"


_FIELDS: dict[str, Callable[[_Reader, Any, str], Any]] = {
    "name": _Reader.name,
    "description": _Reader.text,
    "utterances": _Reader.texts,
    "keywords": _Reader.keywords,
    "model": _Reader.text,
    "score_threshold": _Reader.similarity,
    "input_cost_per_token": _Reader.price,
    "output_cost_per_token": _Reader.price,
    "latency_slo_ms": _Reader.milliseconds,
    "max_completion_tokens": _Reader.tokens,
}
