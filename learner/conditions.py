"""What a gate says: each condition with its reason in words, and the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["published", "held"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition: passed or not, its figure against its threshold, on how much evidence, in a sentence."""

    name: str
    passed: bool
    figure: float
    threshold: float
    n: int
    bound: float | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """The verdict, each condition, and for a hold what is missing."""

    verdict: Verdict
    conditions: tuple[Condition, ...]
    missing: tuple[str, ...]


def decided(conditions: Sequence[Condition]) -> GateDecision:
    """Published iff every condition holds."""
    passed = all(condition.passed for condition in conditions)
    return GateDecision(
        verdict="published" if passed else "held",
        conditions=tuple(conditions),
        missing=tuple(c.sentence for c in conditions if not c.passed),
    )
