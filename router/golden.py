"""Where golden queries go under a version: decided as in service, split and all, but without exploring."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection

from router.activations import active
from router.decide import UnknownRoute, decide_by_itself
from router.encoder import Encoding
from router.scoring import Router
from router.stored_versions import load
from router.version import RouterVersion
from telemetry.golden import GoldenQuery, put_golden


class GoldenEncoder(Protocol):
    """What is needed of an encoder."""

    def encode(self, texts: Sequence[str], *, hidden: bool = False) -> list[Encoding]:
        """One encoding a text, with hidden states where asked."""


class UnknownGoldenRoute(UnknownRoute):
    """A golden query names a route that is not in the fleet that serves, so no version could ever get it right."""


def keep_golden(conn: Connection, queries: Sequence[GoldenQuery]) -> None:
    """Add golden queries whose routes the fleet that serves has (any, while none serves); the caller commits.

    Raises:
        UnknownGoldenRoute: one names another route; none is added.
    """
    now = active(conn)
    known = None if now is None else set(load(conn, now.version).parameters.routes)
    for number, item in enumerate(queries, start=1):
        if known is not None and (unknown := [route for route in item.routes if route not in known]):
            raise UnknownGoldenRoute(unknown[0], place=f"It is number {number} of {len(queries)}.")
    put_golden(conn, queries)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenCheck:
    """Where one golden query goes; ``right`` is None where the fleet has no such route any more."""

    golden_id: str
    query: str
    expected: tuple[str, ...]
    found: tuple[str, ...]
    right: bool | None


def check_golden(
    version: RouterVersion, queries: Sequence[GoldenQuery], *, encoder: GoldenEncoder
) -> list[GoldenCheck]:
    """Decide every golden query by this version, in the order given."""
    router = Router(version)
    encodings = encoder.encode([item.query for item in queries], hidden=True) if queries else []
    checks = []
    for item, encoding in zip(queries, encodings, strict=True):
        decision = decide_by_itself(router, item.query, encoding, encode=encoder.encode)
        found = tuple(segment.route for segment in decision.segments)
        known = set(item.routes) <= set(router.routes)
        checks.append(
            GoldenCheck(
                golden_id=item.golden_id,
                query=item.query,
                expected=item.routes,
                found=found,
                right=found == item.routes if known else None,
            )
        )
    return checks
