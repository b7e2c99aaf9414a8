"""What the sessions of two versions show so far: votes, questions asked again, errors, slow and dear answers."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Row, text

from router.plan import Plan
from router.rollout import RolloutSettings
from router.sequential import Finding, Judged, find_worse, find_worse_anywhere

# What each of the three triggers may cost of alpha: they are for what is plain, so they can wait to be sure.
_TRIGGER_ALPHA = 0.001
_VOTES_SHARE = 2 / 3
_MOST_ROWS = 20_000
_SEEN = """
from inference i where i.router_version in (:newer, :older) and i.received_at >= :began
"""
_SESSIONS = text(f"""
select count(distinct coalesce(session_id, inference_id::text)) filter (where router_version = :newer) as sessions,
       count(*) filter (where router_version = :newer) as queries,
       count(*) filter (where shadow_agrees is not null) as compared,
       count(*) filter (where shadow_agrees = false) as apart
{_SEEN}
""")  # a constant of ours
# Only what both versions decided counts, and nothing that was explored: there it is chance that sends a question away.
_VOTES = text(f"""
with latest as (
    select distinct on (feedback_id) feedback_id, inference_id, op, value, submitter, principal,
           min(received_at) over (partition by feedback_id) as first_at
    from feedback where inference_id is not null and received_at >= :began order by feedback_id, revision desc
)
select i.router_version = :newer as canary, not i.shadow_agrees as apart, i.route, i.shadow_route,
       coalesce(i.session_id, i.inference_id::text) as session, l.value = 'up' as good, l.submitter, l.principal,
       coalesce(l.submitter, i.end_user) as person
from (select i.* {_SEEN}) i join latest l using (inference_id)
where l.op <> 'withdraw' and i.shadow_version in (:newer, :older) and not i.explored
order by l.first_at, l.feedback_id limit {_MOST_ROWS}
""")  # noqa: S608
_ASKED = text(f"""
with q as (
    select i.inference_id, i.session_id, i.occurred_at, i.router_version, i.route, i.shadow_route, i.shadow_agrees,
           i.explored, lead(i.inference_id) over w as next_id, lead(i.occurred_at) over w as next_at
    {_SEEN} and i.session_id is not null
    window w as (partition by i.session_id order by i.occurred_at, i.inference_id)
)
select q.router_version = :newer as canary, q.route, q.shadow_route, q.session_id as session,
       p.embedding, n.embedding as next_embedding
from q join inference_payload p on p.inference_id = q.inference_id
left join inference_payload n on n.inference_id = q.next_id and q.next_at < q.occurred_at + interval '30 minutes'
where not q.shadow_agrees and not q.explored and q.occurred_at < clock_timestamp() - interval '30 minutes'
order by q.occurred_at, q.inference_id limit {_MOST_ROWS}
""")  # noqa: S608
_OUTCOMES = text(f"""
select i.router_version = :newer as canary, coalesce(i.session_id, i.inference_id::text) as session,
       i.error_type is not null as failed, i.duration_ms, i.cost
{_SEEN} and i.payload_sha256 is not null order by i.received_at, i.inference_id limit {_MOST_ROWS}
""")
_USUAL = text("""
select percentile_cont(0.9) within group (order by duration_ms) as slow,
       percentile_cont(0.9) within group (order by cost) as dear, count(duration_ms) as n
from inference
where router_version = :older and received_at < :began and received_at >= :began - interval '7 days'
""")
_FEWEST_USUAL = 50
_REASK_COSINE = 0.92
# As the learner's: from so many people that sign on, unsigned votes are limited to so much of the signed ones.
_SIGNING_USERS, _UNSIGNED_SHARE = 20, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What was seen of the newer version: sessions and queries that it decided, the share apart, every finding."""

    sessions: int
    queries: int
    apart: float
    findings: tuple[Finding, ...]

    @property
    def worse(self) -> Finding | None:
        """The finding that says that it is worse, None while none does."""
        return next((finding for finding in self.findings if finding.worse), None)


def watch_trial(conn: Connection, plan: Plan, settings: RolloutSettings, *, routes: Sequence[str]) -> Watched:
    """Judge the newer version of ``plan`` by all that came in since the trial began.

    The tests start anew from the stored rows each time, so that it does not matter who looks, how often, and whether
    somebody was killed in between. Each session counts once a test: in the order of arrival, with its first question
    on which the versions differ; until then both arms have seen the same, so the comparison is a randomised one.
    """
    bounds = {"newer": plan.newer, "older": plan.older, "began": plan.began}
    seen = conn.execute(_SESSIONS, bounds).one()
    apart = seen.apart / max(seen.compared, 1)
    alpha = settings.alpha - 3 * _TRIGGER_ALPHA
    votes = _heard(conn.execute(_VOTES, bounds).all(), most=settings.votes_per_user)
    asked = _asked_again(conn.execute(_ASKED, bounds).all())
    findings = [
        *find_worse_anywhere(
            votes,
            routes=routes,
            margin=settings.most_loss,
            route_margin=settings.most_route_loss,
            alpha=alpha * _VOTES_SHARE,
        ),
        find_worse(
            asked,
            name="asked again",
            margin=settings.most_more_reasks / max(apart, settings.most_more_reasks),
            alpha=alpha * (1 - _VOTES_SHARE),
        ),
        *_triggers(conn, bounds, settings),
    ]
    return Watched(sessions=seen.sessions, queries=seen.queries, apart=apart, findings=tuple(findings))


def _heard(rows: Sequence[Row[Any]], *, most: int) -> Judged:
    """The first vote of each session, on a question apart if it has one; of whom it is heard says ``_Hearing``."""
    hearing = _Hearing(most=most)
    kept: dict[str, Row[Any]] = {}
    for row in rows:
        hearing.note(row)
        if row.session in kept and (kept[row.session].apart or not row.apart):
            continue
        if row.session not in kept and not hearing.hears(row):
            continue
        kept.pop(row.session, None)  # it counts from when the question apart was judged
        kept[row.session] = row
    judged = list(kept.values())
    return _judged(judged, good=[float(row.good) for row in judged], apart=[row.apart for row in judged])


@dataclass(slots=True, kw_only=True)
class _Hearing:
    """Whose votes are heard, whatever they say: of one person not more than ``most``.

    A vote without a submitter is whoever asked's. Where many people sign the votes that one key brings, one of those
    that nobody signed is heard for every ten signed ones.
    """

    most: int
    votes: Counter[str] = field(default_factory=Counter)
    heard: Counter[tuple[str | None, bool]] = field(default_factory=Counter)
    signing: defaultdict[str | None, set[str]] = field(default_factory=lambda: defaultdict(set))

    def note(self, row: Row[Any]) -> None:
        """Remember who signs."""
        if row.submitter is not None:
            self.signing[row.principal].add(row.submitter)

    def hears(self, row: Row[Any]) -> bool:
        """Tell whether the vote is heard, and count it."""
        key, signed = row.principal, row.submitter is not None
        allowed = _UNSIGNED_SHARE * self.heard[key, True]
        if not signed and len(self.signing[key]) >= _SIGNING_USERS and self.heard[key, False] >= allowed:
            return False
        if row.person is not None:
            self.votes[row.person] += 1
            if self.votes[row.person] > self.most:
                return False
        self.heard[key, signed] += 1
        return True


def _asked_again(rows: Sequence[Row[Any]]) -> Judged:
    """Of each session the first question apart; good where the next one does not ask the same again."""
    kept: dict[str, Row[Any]] = {}
    for row in rows:
        kept.setdefault(row.session, row)
    asked = list(kept.values())
    good = [1.0 - float(_same(row.embedding, row.next_embedding)) for row in asked]
    return _judged(asked, good=good, apart=[True] * len(asked))


def _same(one: bytes | None, other: bytes | None) -> bool:
    if one is None or other is None or len(one) != len(other):
        return False
    x, y = (np.frombuffer(value, "<f2").astype(np.float64) for value in (one, other))
    return bool(x @ y >= _REASK_COSINE * np.linalg.norm(x) * np.linalg.norm(y))


def _judged(rows: Sequence[Row[Any]], *, good: Sequence[float], apart: Sequence[bool]) -> Judged:
    return Judged(
        value=np.array(good, dtype=np.float64),
        canary=np.array([row.canary for row in rows], dtype=bool),
        apart=np.array(apart, dtype=bool),
        routes=[frozenset({row.route, row.shadow_route}) for row in rows],
    )


def _triggers(conn: Connection, bounds: dict[str, Any], settings: RolloutSettings) -> list[Finding]:
    """More errors, slow or dear answers than before: the same test, on the first outcome of each session."""
    kept: dict[str, Row[Any]] = {}
    for row in conn.execute(_OUTCOMES, bounds):
        kept.setdefault(row.session, row)
    rows = list(kept.values())
    usual = conn.execute(_USUAL, bounds).one()
    known = usual.n >= _FEWEST_USUAL
    tests: list[tuple[str, list[float], float]] = [
        ("errors", [float(not row.failed) for row in rows], settings.most_more_errors),
        ("slow answers", _within(rows, "duration_ms", usual.slow if known else None), settings.most_more_slow),
        ("dear answers", _within(rows, "cost", usual.dear if known else None), settings.most_more_dear),
    ]
    canary: npt.NDArray[np.bool_] = np.array([row.canary for row in rows], dtype=bool)
    everything = np.ones(len(rows), dtype=bool)
    return [
        find_worse(
            Judged(value=np.array(good, dtype=np.float64), canary=canary, apart=everything),
            name=name,
            margin=margin,
            alpha=_TRIGGER_ALPHA,
        )
        for name, good, margin in tests
    ]


def _within(rows: Sequence[Row[Any]], name: str, limit: float | None) -> list[float]:
    """1 where a figure is not over the limit or not known."""
    return [float(limit is None or getattr(row, name) is None or getattr(row, name) <= limit) for row in rows]
