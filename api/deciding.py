"""Decisions for concurrent requests: each decides in the event loop as soon as its query is encoded."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np

from api.encodings import Encodings
from api.errors import NotReady
from router.arms import Arms
from router.decide import Encode, Router, SessionState, Weighed, advance_session, decide, weigh
from router.decision import Decision, Shadow
from router.encoder import Encoder, Encoding
from telemetry.ids import new_id

MOST_SESSIONS = 100_000
# Of each version so many queries are kept as they were weighed, some kilobytes each; long ones hardly come again.
MOST_WEIGHED, _LONG = 500, 1_000
_Read = dict[tuple[str, str], Encoding]  # by encoder and text


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One query to decide, with what is known of it."""

    query: str
    session_id: str | None = None
    pinned: str | None = None
    explore: bool = True


class _NotRead(Exception):
    """Parts of a query are to be weighed that are not encoded yet."""

    def __init__(self, encoder: str, texts: Sequence[str]) -> None:
        self.encoder, self.texts = encoder, texts


class Deciding:
    """Decides for a whole process, in its event loop: a fraction of a millisecond. Encoding is left to a thread.

    Args:
        encoder: shared by all requests.
        arms: returns what decides now, None before there is anything.
        next_encoder: the one that a version in shadow may be made for.
        alone: tells whether nothing but one request is in this process's hands.
        remember: how long a session is kept after its last query.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        arms: Callable[[], Arms | None],
        remember: timedelta,
        next_encoder: Encoder | None = None,
        alone: Callable[[], bool] = bool,
    ) -> None:
        self._encoder = encoder
        self._others = {} if next_encoder is None else {next_encoder.fingerprint: next_encoder}
        self._arms = arms
        self._remember = remember
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="encoding")
        self._encodings = {
            e.fingerprint: Encodings(e, self._executor, alone=alone) for e in (encoder, *self._others.values())
        }
        self._sessions: OrderedDict[str, SessionState] = OrderedDict()
        self._weighed: WeakKeyDictionary[Router, OrderedDict[tuple[str, bool], Weighed]] = WeakKeyDictionary()
        self._rng = np.random.default_rng()

    async def decide(self, question: Question) -> Decision:
        """Return the decision.

        Raises:
            NotReady: no version is loaded yet.
            UnknownRoute: the pinned route is not in the fleet.
        """
        arms = self._arms()
        if arms is None:
            raise NotReady(NotReady.__doc__)
        # Each version decides by its own encoder, never by another one's numbers.
        names = {self._encoder_of(router).fingerprint for router in (arms.main, arms.side) if router is not None}
        read: _Read = {}
        for name in sorted(names):
            read[name, question.query] = await self._encodings[name].read(question.query, hidden=True)
        while True:
            try:
                return self._decide(arms, question, read)
            except _NotRead as missing:  # seldom: most queries are not split, and what comes again is kept
                reader, texts = self._encodings[missing.encoder], missing.texts
                found = await asyncio.gather(*(reader.read(text, hidden=False) for text in texts))
                for text, encoding in zip(texts, found, strict=True):  # the query itself may be among its parts
                    read.setdefault((missing.encoder, text), encoding)

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()

    def _encoder_of(self, router: Router) -> Encoder:
        """The watch lets in only versions of encoders that are here, and those that need none."""
        return self._others.get(router.version.encoder, self._encoder)

    def _decide(self, arms: Arms, question: Question, read: _Read) -> Decision:
        now = datetime.now(UTC)
        session = self._session(question.session_id, now=now)
        inference_id = new_id()
        router, other = arms.pick(question.session_id or str(inference_id))

        def ask(router: Router, *, explore: bool) -> Decision:
            name = self._encoder_of(router).fingerprint
            encoding, encode, weighed = read[name, question.query], partial(self._parts, read, name), None
            if question.pinned is None:
                weighed = self._weigh(router, question.query, encoding, encode=encode, explore=explore)
            return decide(
                router,
                question.query,
                encoding,
                encode=encode,
                weighed=weighed,
                inference_id=inference_id,
                rng=self._rng,
                session=session if session is not None and session.encoder == router.version.encoder else None,
                explore=explore,
                pinned=question.pinned,
            )

        decision = ask(router, explore=question.explore)
        if other is not None and question.pinned is None:
            decision = with_shadow(decision, ask(other, explore=False))
        if question.session_id is not None:
            known = session if session is not None and session.encoder == router.version.encoder else None
            state = advance_session(router, known, decision, at=now)
            # Half precision, and a row of its own: a hundred thousand sessions are kept.
            self._sessions[question.session_id] = replace(state, embedding=state.embedding.astype(np.float16))
            self._sessions.move_to_end(question.session_id)
            self._forget(now)
        return decision

    def _weigh(self, router: Router, query: str, encoding: Encoding, *, encode: Encode, explore: bool) -> Weighed:
        """What the query is worth to this version: an exact repeat is not weighed again."""
        kept = self._weighed.setdefault(router, OrderedDict())
        found = kept.pop((query, explore), None) or weigh(router, query, encoding, encode=encode, explore=explore)
        if len(query) < _LONG:
            kept[query, explore] = found
            if len(kept) > MOST_WEIGHED:
                kept.popitem(last=False)
        return found

    def _parts(self, read: _Read, encoder: str, texts: Sequence[str]) -> list[Encoding]:
        """The encodings of parts of a query.

        Raises:
            _NotRead: some are not there yet.
        """
        found = [read.get((encoder, text)) or self._encodings[encoder].kept(text, hidden=False) for text in texts]
        there = [encoding for encoding in found if encoding is not None]
        if len(there) < len(texts):
            raise _NotRead(encoder, texts)
        return there

    def _session(self, session_id: str | None, *, now: datetime) -> SessionState | None:
        session = self._sessions.get(session_id) if session_id is not None else None
        return session if session is not None and now - session.at < self._remember else None

    def _forget(self, now: datetime) -> None:
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            if len(self._sessions) <= MOST_SESSIONS and now - oldest.at < self._remember:
                return
            self._sessions.popitem(last=False)


def with_shadow(decision: Decision, other: Decision) -> Decision:
    """Return the decision with what the second version would have done."""
    agrees = decision.destinations == other.destinations
    return replace(decision, shadow=Shadow(router_version=other.router_version, route=other.route, agrees=agrees))
