"""The users of ``benchmarks.splitter_nights``: they ask one thing or several at once, judge, and ask a part again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import numpy as np

from api.recording import Recording
from benchmarks.splitter_data import Query, with_blanks
from learner.concatenate import join
from router.decision import Decision
from telemetry.ids import new_id
from telemetry.records import Feedback, Inference

# None of these is among the connectors that training knows, nor are most of their words.
UNHEARD = (
    *("in the same breath", "switching lanes", "p.s.", "next ticket", "part b", "while the kettle boils"),
    *("und dann noch", "et puis"),
)
_SHARE_OF_THREE = 0.2
_FIRST_PART = 0.25

Decide = Callable[[str], Decision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How users behave, as probabilities.

    ``several`` of the queries ask two or three things. The right route pleases but for ``bad_answer``. ``rated`` is the
    chance of a vote on an answer, ``flip`` that it says the opposite. Who was not answered in full asks the missing
    part again with ``asks_part``.
    """

    several: float
    rated: float
    flip: float
    bad_answer: float
    asks_part: float
    users: int = 300


@dataclass(slots=True)
class Day:
    """What one day leaves behind."""

    inferences: list[Inference]
    votes: list[Feedback]


def draw_queries(
    pools: Mapping[str, Sequence[str]],
    *,
    count: int,
    several: float,
    connectors: Sequence[str],
    rng: np.random.Generator,
) -> list[Query]:
    """Single questions, and two or three of different routes joined by one of the connectors (none: by a blank)."""
    routes = sorted(pools)
    found = []
    for _ in range(count):
        wanted = 1 if rng.random() >= several else 3 if rng.random() < _SHARE_OF_THREE else 2
        domains = tuple(routes[i] for i in rng.permutation(len(routes))[:wanted])
        parts = [pools[domain][int(rng.integers(len(pools[domain])))] for domain in domains]
        made = join(parts, [with_blanks(connectors, rng) if connectors else " " for _ in parts[1:]])
        spans = tuple(zip((0, *made.starts), (*(made.ends or ()), len(made.text)), strict=True))
        found.append(Query(made.text, spans, domains, domains, joined=wanted > 1))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """People with manners whose queries are decided by ``decide`` and logged by ``recording``."""

    manners: Manners
    decide: Decide
    recording: Recording
    rng: np.random.Generator

    def ask(self, query: Query, *, at: datetime, session: str, into: Day) -> None:
        """One query, its votes, and what is asked again because of its answer."""
        user = f"user {self.rng.integers(self.manners.users)}"
        decision = self._logged(query.text, at=at, session=session, user=user, into=into)
        served = {segment.route for segment in decision.segments}
        if len(decision.segments) == 1:
            whole = len(query.domains) == 1 and served == set(query.domains)
            self._vote(decision, None, good=whole, user=user, into=into)
        else:
            for index, segment in enumerate(decision.segments):
                good = segment.route in query.domains and len(query.domains) > 1
                self._vote(decision, index, good=good, user=user, into=into)
        missing = [i for i, domain in enumerate(query.domains) if domain not in served]
        if len(query.domains) > 1 and len(missing) == len(query.domains):
            missing = missing[1:] if self.rng.random() >= _FIRST_PART else missing[:1]
        for step, i in enumerate(missing, start=1):
            if self.rng.random() < self.manners.asks_part:
                then = at + timedelta(seconds=40 * step)
                again = self._logged(query.parts[i], at=then, session=session, user=user, into=into)
                good = [segment.route for segment in again.segments] == [query.domains[i]]
                self._vote(again, None, good=good, user=user, into=into)

    def _logged(self, text: str, *, at: datetime, session: str, user: str, into: Day) -> Decision:
        decision = self.decide(text)
        logged = self.recording.decision(decision, session_id=session, end_user=user, client_request_id=None)
        into.inferences.append(replace(logged, occurred_at=at))
        return decision

    def _vote(self, decision: Decision, index: int | None, *, good: bool, user: str, into: Day) -> None:
        quality, voting, slip = self.rng.random(3)
        if voting >= self.manners.rated:
            return
        liked = (good and quality >= self.manners.bad_answer) != (slip < self.manners.flip)
        at = into.inferences[-1].occurred_at
        into.votes.append(
            _thumb(
                decision.inference_id,
                index,
                liked=liked,
                by=self.recording.person(user),
                at=None if at is None else at + timedelta(seconds=5),
            )
        )


def _thumb(target: UUID, index: int | None, *, liked: bool, by: str | None, at: datetime | None) -> Feedback:
    return Feedback(
        feedback_id=new_id(),
        target_kind="inference_id",
        target_value=str(target),
        segment_index=index,
        value="up" if liked else "down",
        submitter=by,
        payload_sha256=b"benchmark",
        occurred_at=at,
    )
