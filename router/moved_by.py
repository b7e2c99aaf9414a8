"""Which votes a version followed most: how far it went with each of them, route by route."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, text

from router.decide import route_posteriors
from router.scoring import Router
from router.version import Array, RouterVersion

_MOST_VOTES = 5_000
_LEAST = 0.005
_VOTES = text("""
select feedback_id::text, inference_id::text, value, correction, route, embedding from (
    select distinct on (f.feedback_id) f.feedback_id, f.inference_id, f.op, f.value, f.correction, f.received_at,
           i.route, p.embedding
    from feedback f join inference i using (inference_id) join inference_payload p using (inference_id)
    where p.encoder = :encoder and p.embedding is not null and coalesce(i.segment_count, 1) = 1 and i.route is not null
          and (cast(:until as timestamptz) is null or f.received_at <= :until)
    order by f.feedback_id, f.revision desc
) latest where op <> 'withdraw' order by received_at desc limit :most
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedVote:
    """A vote and by how much the route that it is about became more or less probable for its question (-1..1).

    ``route`` is the one that the vote speaks for (liked, or named as right) or against (disliked).
    """

    route: str
    feedback_id: str
    inference_id: str
    says: str
    change: float


def followed_votes(
    conn: Connection, old: RouterVersion, new: RouterVersion, *, until: datetime | None, most: int = 5
) -> dict[str, list[FollowedVote]]:
    """The votes that ``new`` went furthest with compared with ``old``, at most ``most`` for each route.

    A thumbs-up speaks for the route that answered, a thumbs-down against it, a correction for the route that it names.
    Where probability moved the other way the version did not follow, and the vote is not listed.

    Args:
        conn: where the votes are.
        old: the earlier version.
        new: the later one, by the same encoder.
        until: votes that came later are left out; None: none.
        most: how many a route.
    """
    bounds = {"encoder": new.encoder, "until": until, "most": _MOST_VOTES}
    rows = conn.execute(_VOTES, bounds).all() if old.encoder == new.encoder else []
    if not rows:
        return {}
    X = np.frombuffer(b"".join(row.embedding for row in rows), "<f2").astype(np.float32).reshape(len(rows), -1)
    moved = _change(old, new, X)
    found: dict[str, list[FollowedVote]] = {}
    for i, row in enumerate(rows):
        route, says = (row.correction, "correction") if row.correction else (row.route, str(row.value))
        change = float(moved[route][i]) if route in moved else 0.0
        if (change if says != "down" else -change) >= _LEAST:
            vote = FollowedVote(
                route=route, feedback_id=row.feedback_id, inference_id=row.inference_id, says=says, change=change
            )
            found.setdefault(route, []).append(vote)
    return {route: _furthest(votes, most) for route, votes in sorted(found.items())}


def _change(old: RouterVersion, new: RouterVersion, X: Array) -> dict[str, npt.NDArray[np.float64]]:
    """By route of either version, by how much it became more probable for each of n questions (n, D)."""
    before, after = (_by_name(version, X) for version in (old, new))
    nothing = np.zeros(len(X))
    return {route: after.get(route, nothing) - before.get(route, nothing) for route in {*before, *after}}


def _by_name(version: RouterVersion, X: Array) -> dict[str, npt.NDArray[np.float64]]:
    P = route_posteriors(Router(version), X)
    return {route: P[:, i] for i, route in enumerate(version.parameters.routes)}


def _furthest(votes: Sequence[FollowedVote], most: int) -> list[FollowedVote]:
    return sorted(votes, key=lambda vote: (-abs(vote.change), vote.feedback_id))[:most]
