"""A small shop whose questions, users and logs the tests of the night are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
from sqlalchemy import Engine

from api.demo.simulated_users import Habits, react
from learner.first_version import build_first_version
from learner.settings import LearnerSettings
from router.decide import Router, decide_many
from router.fleet import Fleet, Route
from router.registry import publish
from router.version import RouterVersion
from telemetry.feedback import store_feedback
from telemetry.ids import new_id
from telemetry.inferences import store_inferences
from telemetry.records import DecisionRecord, Feedback, Inference, OutcomeRecord, Payload, SegmentRecord

# The second half of each route's questions is about things that its examples do not mention.
_TOPICS = {
    "billing": (
        ("why was i charged {0}", "i want my money back for {0}", "send me the invoice for {0}"),
        ("the amount for {0} is not what i agreed to", "can i pay for {0} in two parts", "my card was refused for {0}"),
    ),
    "delivery": (
        ("where is {0}", "when does {0} arrive", "track {0} for me"),
        ("nobody was home when {0} came", "{0} was left with a neighbour", "bring {0} to the office instead"),
    ),
    "repairs": (
        ("{0} does not work", "{0} is broken", "how do i fix {0}"),
        ("{0} makes a strange noise", "there is smoke coming from {0}", "{0} turns itself off again and again"),
    ),
}
_THINGS = (
    *("the kettle", "the washing machine", "my headphones", "the second lamp", "the garden chair", "the blue bicycle"),
    *("my new phone", "the coffee grinder", "the dishwasher", "the wooden shelf", "the radio", "the sewing machine"),
)
QUICK = LearnerSettings(splitter_examples=40, splitter_judged=40, folds=2, draws=1, em_rounds=3, fewest_centroids=12)


def questions(half: int | None = None) -> list[tuple[str, str]]:
    """Questions with the route they belong to; ``half`` 0: of the kind that the examples are of, 1: of the other."""
    halves = (0, 1) if half is None else (half,)
    return [
        (pattern.format(thing), route)
        for route, topics in _TOPICS.items()
        for part in halves
        for pattern in topics[part]
        for thing in _THINGS
    ]


def fleet() -> Fleet:
    """Three routes with six examples each, from the first half of their questions."""
    known = questions(0)
    routes = [
        Route(name=name, utterances=tuple(q for q, route in known if route == name)[::6], model=f"{name}-slm")
        for name in _TOPICS
    ]
    return Fleet(fallback="billing", routes=tuple(routes))


def first_published(engine: Engine, encoder: object) -> RouterVersion:
    """Version 1 of the shop, without a splitter, published."""
    version = replace(build_first_version(fleet(), encoder=encoder, seed=0), splitter={})
    with engine.begin() as conn:
        number = publish(conn, version, actor="a test", reason="the first", parent=None).number
    return replace(version, number=number)


@dataclass(frozen=True, slots=True)
class Logged:
    """Ids of what was logged: every inference, and every vote with the inference it judges."""

    inferences: tuple[UUID, ...]
    votes: tuple[tuple[UUID, UUID], ...]


def log_day(
    engine: Engine,
    encoder: object,
    version: RouterVersion,
    *,
    asked: Sequence[tuple[str, str]] | None = None,
    habits: Habits | None = None,
    seed: int = 0,
    day: int = 0,
) -> Logged:
    """Route ``asked`` by ``version``, let users judge the answers, and store it all."""
    asked, habits = (
        asked or questions(),
        habits or Habits(rated=0.6, flip=0.0, bad_answer=0.05, reask_bad=0.0, reask_good=0.0),
    )
    rng = np.random.default_rng(seed)
    X = encoder.embed([text for text, _ in asked])
    choices = decide_many(Router(version), X, texts=[text for text, _ in asked])
    start = datetime.now(UTC) - timedelta(days=1 - day, hours=1)
    items, votes = [], []
    ids = (UUID(bytes=rng.bytes(16), version=4) for _ in range(2 * len(asked)))
    for i, (text, right) in enumerate(asked):
        chosen = int(rng.choice(len(version.parameters.routes), p=choices.propensities[i]))
        route = version.parameters.routes[chosen]
        at, propensity = start + timedelta(seconds=i), choices.propensities[i, chosen]
        items.append(inference(text, route, X[i], encoder, at=at, propensity=propensity, key=next(ids)))
        reaction = react(habits, user=f"user {rng.integers(200)}", route=route, right_route=right, rng=rng)
        if reaction.thumb:
            votes.append(thumb(items[-1].inference_id, reaction.thumb, by=reaction.voter, feedback_id=next(ids)))
    with engine.begin() as conn:
        store_inferences(conn, items)
        store_feedback(conn, votes)
    return Logged(
        tuple(item.inference_id for item in items), tuple((v.feedback_id, UUID(v.target_value)) for v in votes)
    )


def inference(
    text: str,
    route: str,
    x: np.ndarray | None,
    encoder: object,
    *,
    at: datetime,
    propensity: float = 1.0,
    **rest: object,
) -> Inference:
    """One unsplit question, routed and answered; without an embedding where ``x`` is None."""
    key = rest.get("key") or new_id()
    outcome = {"output_tokens": 100, "duration_ms": 500.0, "cost": 1e-4, "finish_reason": "stop"}
    return Inference(
        inference_id=key,
        session_id=str(rest.get("session") or f"session of {key}"),
        decision=DecisionRecord(
            route=route,
            router_version=1,
            policy="cost_aware",
            cause=str(rest.get("cause", "centroid")),
            propensity=float(propensity),
            segments=rest.get("segments", ()),
        ),
        outcome=OutcomeRecord(**{**outcome, **dict(rest.get("outcome", {}))}),
        payload=Payload(
            query=text,
            embedding=None if x is None else np.asarray(x, dtype="<f2").tobytes(),
            encoder=None if x is None else encoder.fingerprint,
        ),
        occurred_at=at,
        payload_sha256=key.bytes,
    )


def part(index: int, text: str, route: str, *, start: int, encoder: object) -> SegmentRecord:
    """One segment of a split question."""
    return SegmentRecord(
        segment_index=index,
        start_offset=start,
        end_offset=start + len(text),
        text=text,
        route=route,
        propensity=1.0,
        embedding=np.asarray(encoder.embed([text])[0], dtype="<f2").tobytes(),
    )


def thumb(target: UUID, value: str | None, *, by: str, **rest: object) -> Feedback:
    """A vote on a logged inference."""
    key = rest.pop("feedback_id", None) or new_id()
    return Feedback(
        feedback_id=key,
        target_kind="inference_id",
        target_value=str(target),
        value=value,
        submitter=by,
        payload_sha256=key.bytes + str(value).encode(),
        **rest,
    )


def accuracy(version: RouterVersion, encoder: object, asked: Sequence[tuple[str, str]]) -> float:
    """Share of ``asked`` that goes to the right route."""
    choices = decide_many(Router(version), encoder.embed([text for text, _ in asked]), explore=False)
    chosen = [version.parameters.routes[i] for i in choices.route]
    return float(np.mean([route == right for route, (_, right) in zip(chosen, asked, strict=True)]))
