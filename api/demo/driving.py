"""Drive a real server over HTTP as clients would: ask, log what came of it, vote with noise, ask again."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp
import numpy as np

from api.demo.material import Question
from api.demo.simulated_users import Habits, Reaction, react

CLIENTS = 16
_CORRECTS, _REVISES, _WITHDRAWS = 0.10, 0.02, 0.02
_ASKS_FOR_THE_REST = 0.6


class DemoFailed(RuntimeError):
    """The server gave an answer that the demo did not expect."""


@dataclass(slots=True)
class Traffic:
    """What one day's traffic came to."""

    requests: int = 0
    votes: int = 0
    calls: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How the questions that are never sent are routed, as shares: plain ones, ones that span, ones for nobody."""

    accuracy: float
    splits_right: float | None
    nobody_right: float | None


class Driver:
    """Simulated clients of the server at ``address``; all randomness comes from ``seed``."""

    def __init__(self, address: str, *, habits: Habits, fallback: str, seed: int) -> None:
        self._address = address
        self._habits = habits
        self._fallback = fallback
        self._rng = np.random.default_rng(seed)

    async def send(self, questions: Sequence[Question]) -> Traffic:
        """Ask ``questions``, several clients at once, and react to every answer."""
        traffic = Traffic()
        waiting = iter(questions)
        async with self._http() as http:

            async def client() -> None:
                for question in waiting:
                    await self._session(http, question, traffic)

            await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return traffic

    async def score(self, questions: Sequence[Question]) -> Score:
        """Ask without exploring and without a log, and compare with what is right."""
        right: dict[str, list[bool]] = {"plain": [], "spanning": [], "nobody": []}
        waiting = iter(questions)
        async with self._http() as http:

            async def client() -> None:
                for question in waiting:
                    decision = await self._post(http, "/v1/route", _unlogged(question))
                    routes = tuple(segment["route"] for segment in decision["segments"])
                    kind = "spanning" if len(question.parts) > 1 else "plain"
                    kind = "nobody" if question.routes == (self._fallback,) else kind
                    right[kind].append(routes == question.routes)

            await asyncio.gather(*(client() for _ in range(CLIENTS)))
        shares = {kind: float(np.mean(found)) if found else None for kind, found in right.items()}
        return Score(accuracy=shares["plain"] or 0.0, splits_right=shares["spanning"], nobody_right=shares["nobody"])

    async def wait_for_version(self, number: int, *, seconds: float = 10.0) -> float:
        """Wait until decisions come from version ``number``; return how many seconds it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with self._http() as http:
            while loop.time() - began < seconds:
                decision = await self._post(http, "/v1/route", {"query": "hello", "log": False, "explore": False})
                if decision["router_version"] == number:
                    return loop.time() - began
                await asyncio.sleep(0.005)
        raise DemoFailed(f"Version {number} did not serve within {seconds:.0f} s.")

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make one call."""
        async with self._http() as http:
            answer: dict[str, Any] = await self._post(http, path, body)
            return answer

    def _http(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(self._address, timeout=aiohttp.ClientTimeout(total=30))

    async def _post(self, http: aiohttp.ClientSession, path: str, body: dict[str, Any], *, method: str = "POST") -> Any:
        try:
            async with http.request(method, path, json=body) as answer:
                found = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise DemoFailed(f"{method} {path} was not answered ({why}).") from None
        if answer.status >= 400:
            raise DemoFailed(f"{method} {path} answered {answer.status}: {found.get('detail', '')}")
        return found

    async def _session(self, http: aiohttp.ClientSession, question: Question, traffic: Traffic) -> None:
        """One user's session: the question, at most one more try, and the rest that went unanswered."""
        user = f"user-{int(self._rng.integers(self._habits.users))}"
        session = str(uuid4())
        for attempt in range(2):
            reactions, decision = await self._ask(http, question, traffic, user=user, session=session)
            unanswered = _unanswered(question, decision)
            if unanswered and self._rng.random() < _ASKS_FOR_THE_REST:
                await self._ask(http, unanswered, traffic, user=user, session=session)
                return
            if attempt or not any(reaction.asks_again for reaction in reactions):
                return

    async def _ask(
        self, http: aiohttp.ClientSession, question: Question, traffic: Traffic, *, user: str, session: str
    ) -> tuple[list[Reaction], dict[str, Any]]:
        asked = {"query": question.text, "session_id": session, "metadata": {"end_user": user}}
        decision = await self._post(http, "/v1/route", asked)
        traffic.requests += 1
        segments = decision["segments"]
        truth = _truth(question, segments)
        reactions = [
            react(self._habits, user=user, route=segment["route"], right_route=right, rng=self._rng)
            for segment, right in zip(segments, truth, strict=True)
        ]
        if len(segments) == 1 and len(question.parts) > 1:  # half an answer is not a good one
            reactions = [react(self._habits, user=user, route="half", right_route=truth[0], rng=self._rng)]
        await self._post(http, "/v1/inferences", self._outcome(decision, reactions))
        for index, (reaction, right) in enumerate(zip(reactions, truth, strict=True)):
            if reaction.thumb is not None:
                traffic.votes += 1
                where = {"segment_index": index} if len(segments) > 1 else {}
                vote = {"inference_id": decision["inference_id"], "value": reaction.thumb, "submitter": reaction.voter}
                half = len(segments) == 1 and len(question.parts) > 1
                await self._vote(http, {**vote, **where}, right=None if half else right, traffic=traffic)
        return reactions, decision

    async def _vote(
        self, http: aiohttp.ClientSession, vote: dict[str, Any], *, right: str | None, traffic: Traffic
    ) -> None:
        chance = self._rng.random()
        if vote["value"] == "down" and right is not None and chance < _CORRECTS:
            vote = {**vote, "correction": right}
        given = await self._post(http, "/v1/feedback", vote)
        path = f"/v1/feedback/{given['feedback_id']}"
        if chance > 1 - _REVISES:
            await self._post(http, path, {"value": "up" if vote["value"] == "down" else "down"}, method="PUT")
            traffic.calls["revised"] += 1
        elif chance > 1 - _REVISES - _WITHDRAWS:
            await self._post(http, path, {}, method="DELETE")
            traffic.calls["withdrawn"] += 1

    def _outcome(self, decision: dict[str, Any], reactions: list[Reaction]) -> dict[str, Any]:
        """What the small model's server would report; a bad answer is sometimes one that was cut off."""
        tokens = [int(np.clip(self._rng.lognormal(4.8, 0.35), 10, 512)) for _ in decision["segments"]]
        if self._rng.random() < 0.01:
            tokens[0] *= 12  # it rambles
        cut = not reactions[0].good and self._rng.random() < 0.1
        read = len(decision["segments"][0]["text"]) // 4 + 20
        return {
            "inference_id": decision["inference_id"],
            "response_model": decision["segments"][0]["model"] or "unknown",
            "input_tokens": read,
            "output_tokens": sum(tokens),
            "cost": read * 7e-8 + sum(tokens) * 1.4e-7,
            "duration_ms": float(round(80 + 6.0 * sum(tokens) * self._rng.uniform(0.9, 1.1), 1)),
            "ttft_ms": float(round(self._rng.uniform(40, 120), 1)),
            "finish_reason": "length" if cut else "stop",
        }


def _unlogged(question: Question) -> dict[str, Any]:
    return {"query": question.text, "explore": False, "log": False}


def _truth(question: Question, segments: list[dict[str, Any]]) -> list[str]:
    """For each segment the route of the part that it overlaps most."""
    return [
        max(question.parts, key=lambda part: min(part[1], s["end"]) - max(part[0], s["start"]))[2] for s in segments
    ]


def _unanswered(question: Question, decision: dict[str, Any]) -> Question | None:
    """The last part of a question that was sent whole to one route although it belongs to another."""
    start, end, route = question.parts[-1]
    if len(question.parts) < 2 or len(decision["segments"]) > 1 or decision["route"] == route:
        return None
    text = question.text[start:end]
    return Question(text=text, parts=((0, len(text), route),))
