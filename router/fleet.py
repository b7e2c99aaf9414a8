"""The fleet: all routes plus the fallback, as the operator wrote them in ``fleet.yaml``."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A named destination: one domain's SLM. Prices are US dollars a token, latency milliseconds."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All routes; ``fallback`` names the one for what no domain should answer (it alone may have no utterances)."""

    fallback: str
    routes: tuple[Route, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the file: the order of every array over routes."""
        return tuple(route.name for route in self.routes)
