"""Decisions for concurrent requests: one thread encodes what waits in one batch, then decides each."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from api.errors import NotReady
from router.arms import Arms
from router.decide import Router, SessionState, advance_session, decide
from router.decision import Decision, Shadow
from router.encoder import BATCH, Encoder, Encoding
from telemetry.ids import new_id

CACHE_BYTES = 32_000_000
MOST_SESSIONS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One query to decide, with what is known of it."""

    query: str
    session_id: str | None = None
    pinned: str | None = None
    explore: bool = True


class _Encodings:
    """The encodings of the newest queries, by text, up to a number of bytes: exact repeats cost nothing."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._kept: OrderedDict[str, Encoding] = OrderedDict()
        self._bytes = 0

    def get(self, texts: list[str]) -> dict[str, Encoding]:
        found = {text: self._kept[text] for text in texts if text in self._kept}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        for text, encoding in zip(missing, self._encoder.encode(missing, hidden=True), strict=True):
            found[text] = self._kept[text] = encoding
            self._bytes += _size(text, encoding)
        for text in texts:
            self._kept.move_to_end(text)
        while self._bytes > CACHE_BYTES:
            text, encoding = self._kept.popitem(last=False)
            self._bytes -= _size(text, encoding)
        return found


def _size(text: str, encoding: Encoding) -> int:
    hidden = 0 if encoding.hidden is None else encoding.hidden.nbytes
    return 4 * len(text) + encoding.embedding.nbytes + hidden + 500


class Deciding:
    """Decides for a whole process. All state is touched by its one thread only.

    Args:
        encoder: shared by all requests.
        arms: returns what decides now, None before there is anything.
        next_encoder: the one that a version in shadow may be made for.
        remember: how long a session is kept after its last query.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        arms: Callable[[], Arms | None],
        remember: timedelta,
        next_encoder: Encoder | None = None,
    ) -> None:
        self._encoder = encoder
        self._others = {} if next_encoder is None else {next_encoder.fingerprint: next_encoder}
        self._arms = arms
        self._remember = remember
        self._encodings = {e.fingerprint: _Encodings(e) for e in (encoder, *self._others.values())}
        self._sessions: OrderedDict[str, SessionState] = OrderedDict()
        self._rng = np.random.default_rng()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="deciding")
        self._waiting: list[tuple[Question, asyncio.Future[Decision]]] = []
        self._working: asyncio.Task[None] | None = None

    async def decide(self, question: Question) -> Decision:
        """Return the decision.

        Raises:
            NotReady: no version is loaded yet.
            UnknownRoute: the pinned route is not in the fleet.
        """
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await future

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            questions = [question for question, _ in batch]
            results = await asyncio.get_running_loop().run_in_executor(self._executor, self._decide_all, questions)
            for (_, future), result in zip(batch, results, strict=True):
                if future.cancelled():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _decide_all(self, questions: list[Question]) -> list[Decision | Exception]:
        arms = self._arms()
        if arms is None:
            return [NotReady(NotReady.__doc__) for _ in questions]
        try:
            encodings = self._encode_all(arms, [question.query for question in questions])
        except Exception as error:  # noqa: BLE001  # the request edge: nobody may wait for ever
            return [error for _ in questions]
        results: list[Decision | Exception] = []
        for question in questions:
            try:
                results.append(self._decide(arms, question, encodings))
            except Exception as error:  # noqa: BLE001  # the request edge: one query's error is its own
                results.append(error)
        return results

    def _encode_all(self, arms: Arms, texts: list[str]) -> dict[str, dict[str, Encoding]]:
        """Encodings by encoder and text: each version decides by its own encoder, never by another one's numbers."""
        wanted = {self._encoder_of(router).fingerprint for router in (arms.main, arms.side) if router is not None}
        return {fingerprint: self._encodings[fingerprint].get(texts) for fingerprint in sorted(wanted)}

    def _encoder_of(self, router: Router) -> Encoder:
        """The watch lets in only versions of encoders that are here, and those that need none."""
        return self._others.get(router.version.encoder, self._encoder)

    def _decide(self, arms: Arms, question: Question, encodings: dict[str, dict[str, Encoding]]) -> Decision:
        now = datetime.now(UTC)
        session = self._session(question.session_id, now=now)
        inference_id = new_id()
        router, other = arms.pick(question.session_id or str(inference_id))

        def ask(router: Router, *, explore: bool) -> Decision:
            encoder = self._encoder_of(router)
            return decide(
                router,
                question.query,
                encodings[encoder.fingerprint][question.query],
                encode=encoder.encode,
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
