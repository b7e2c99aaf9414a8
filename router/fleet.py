"""The fleet: all routes plus the fallback, as the operator wrote them in ``fleet.yaml``."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A named destination: one domain's SLM. Prices are US dollars a token, latency milliseconds.

    A keyword is a word or phrase, matched whole and in any case; written ``/like this/`` it is a regular expression of
    google-re2. Below ``score_threshold`` (best cosine to a centroid of its own) the route is not chosen.
    """

    name: str
    description: str = ""
    utterances: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    model: str = ""
    score_threshold: float | None = None
    input_cost_per_token: float = 0.0
    output_cost_per_token: float = 0.0
    latency_slo_ms: float | None = None
    max_completion_tokens: int | None = None

    @property
    def prices(self) -> tuple[float, float, int | None]:
        """What an answer's cost follows from: the price of a token asked and answered, and the longest answer."""
        return self.input_cost_per_token, self.output_cost_per_token, self.max_completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All routes; ``fallback`` names the one for what no domain should answer (it alone may have no utterances).

    Several routes of which none has utterances are a fleet of models: any may serve any question, and what is learned
    is how well each pleases where. ``cost_weight`` is how many times in one a route that costs as much as the mean of
    the fleet must please more than one that costs nothing; 0: price counts for nothing.
    """

    fallback: str
    routes: tuple[Route, ...]
    cost_weight: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the file: the order of every array over routes."""
        return tuple(route.name for route in self.routes)

    @property
    def of_models(self) -> bool:
        """Whether any route may serve any question, instead of each its own domain."""
        return len(self.routes) > 1 and not any(route.utterances for route in self.routes)


class FleetError(ValueError):
    """The fleet file cannot be used."""

    def __init__(self, problem: str, *, source: str, line: int | None = None, key: str = "") -> None:
        self.problem, self.source, self.line, self.key = problem, source, line, key
        place = source if line is None else f"{source}, line {line}"
        super().__init__(f"{place}: {key + ': ' if key else ''}{problem}")


def load_fleet(path: Path) -> Fleet:
    """Read and check a fleet file.

    Raises:
        FleetError: the file is missing, unreadable or wrong; the message names file, line and key.
    """
    # Imported here: reading YAML and compiling rules is needed by who loads a fleet, not by who only passes one on.
    from router.fleet_file import read_fleet_text

    return parse_fleet(read_fleet_text(Path(path)), source=str(path))


def parse_fleet(text: str, *, source: str) -> Fleet:
    """Check the text of a fleet file and build the fleet; ``source`` is the name that errors mention.

    Raises:
        FleetError: the first thing that is wrong, with its line and key.
    """
    from router.fleet_file import build_fleet

    return build_fleet(text, source=source)


def fleet_to_json(fleet: Fleet) -> str:
    """Canonical JSON: sorted keys, no blanks, defaults left out, routes in the order of the file."""
    defaults = {f.name: f.default for f in fields(Route)}
    routes = [{key: value for key, value in asdict(route).items() if value != defaults[key]} for route in fleet.routes]
    document: dict[str, Any] = {"fallback": fleet.fallback, "routes": routes}
    if fleet.cost_weight:
        document["cost_weight"] = fleet.cost_weight
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fleet_from_json(text: str | bytes) -> Fleet:
    """The fleet that ``fleet_to_json`` wrote.

    Raises:
        ValueError, KeyError, TypeError: the text is not such a document.
    """
    document: dict[str, Any] = json.loads(text)
    routes = tuple(_route(entry) for entry in document["routes"])
    fleet = Fleet(fallback=document["fallback"], routes=routes, cost_weight=document.get("cost_weight", 0.0))
    if len(set(fleet.names)) != len(routes) or fleet.fallback not in fleet.names:
        raise ValueError("route names must be unique and contain the fallback")
    return fleet


def _route(entry: dict[str, Any]) -> Route:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Route(**values)


def fleet_fingerprint(fleet: Fleet) -> str:
    """sha256 of the canonical JSON, hexadecimal: two files that mean the same have the same fingerprint."""
    return hashlib.sha256(fleet_to_json(fleet).encode()).hexdigest()
