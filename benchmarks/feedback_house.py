"""The real loop under ``benchmarks.feedback_loop``: decisions, store, nights and gate that ship, on a real Postgres."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import psycopg
from sqlalchemy import Engine, text

from api.demo.simulated_users import Habits, react
from api.recording import Recording
from benchmarks.feedback_world import Ints, KnownEmbeddings, World
from learner.first_version import build_first_version
from learner.nightly import NightResult, run_night
from learner.settings import LearnerSettings
from router.decide import Router, SessionState, advance_session, decide, decide_many
from router.encoder import Encoding
from router.fleet import Fleet, Route
from router.registry import load, publish
from telemetry import embedded_postgres, migrate
from telemetry.database import create_engine
from telemetry.feedback import store_feedback
from telemetry.ids import new_id
from telemetry.inferences import store_inferences
from telemetry.records import Feedback, Inference

# Somebody who is not helped asks again at most so often.
MOST_ATTEMPTS = 4


@contextmanager
def empty_database(home: Path) -> Iterator[Engine]:
    """A migrated database of its own on the embedded server of ``home``, dropped afterwards."""
    server = embedded_postgres.start(home)
    name = f"benchmark_{new_id().hex}"
    admin_url = server.url.replace("/trimtab?", "/postgres?")
    try:
        with psycopg.connect(admin_url, autocommit=True) as admin:
            admin.execute(f"create database {name}")
        url = server.url.replace("/trimtab?", f"/{name}?")
        migrate.upgrade(url)
        engine = create_engine(url, statement_timeout_ms=600_000)
        try:
            yield engine
        finally:
            engine.dispose()
            with psycopg.connect(admin_url, autocommit=True) as admin:
                admin.execute(f"drop database {name} with (force)")
    finally:
        server.stop()


class House:
    """A fleet, a database and what serves; days are simulated, so times are set back to the day they stand for."""

    def __init__(
        self,
        engine: Engine,
        world: World,
        examples: dict[str, Ints],
        *,
        encoder: KnownEmbeddings,
        settings: LearnerSettings,
        nights: int,
    ) -> None:
        self.engine, self.encoder, self.settings = engine, encoder, settings
        self.first_day = datetime.now(UTC) - timedelta(days=nights + 1)
        self.recording = Recording(store_text="full", key=b"benchmark")
        utterances = {route: tuple(world.texts[row] for row in rows) for route, rows in examples.items()}
        fleet = Fleet(
            fallback=world.routes[0],
            routes=tuple(Route(name=route, utterances=utterances[route]) for route in world.routes),
        )
        first = build_first_version(fleet, encoder=encoder, settings=settings)
        with engine.begin() as conn:
            number = publish(conn, first, actor="benchmark", reason="first version", parent=None).number
            self.router = Router(load(conn, number))
        self.questions: list[int] = []
        self.answered_by: list[int] = []
        self.thumbs: list[int] = []
        self.right: list[bool] = []

    def live(self, day: int, world: World, rows: Ints, *, habits: Habits, rng: np.random.Generator) -> None:
        """One day: every question is decided, answered, perhaps judged and asked again; everything is stored."""
        inferences: list[Inference] = []
        judgements: list[Feedback] = []
        for i, row in enumerate(rows):
            at = self.first_day + timedelta(days=day, seconds=86_000 * i / len(rows))
            user = f"user {rng.integers(habits.users)}"
            self._ask(int(row), world, user, at, habits, rng, session=f"{day}-{i}", into=(inferences, judgements))
        store_day(self.engine, inferences, judgements)

    def _ask(
        self,
        row: int,
        world: World,
        user: str,
        at: datetime,
        habits: Habits,
        rng: np.random.Generator,
        *,
        session: str,
        into: tuple[list[Inference], list[Feedback]],
    ) -> None:
        """One question until its user gives up: decisions, votes and re-asks, appended to ``into``."""
        right = world.routes[world.label[row]]
        encoding = Encoding(embedding=world.X[row])
        state: SessionState | None = None
        for attempt in range(MOST_ATTEMPTS):
            when = at + timedelta(seconds=10 * attempt)
            decision = decide(
                self.router,
                world.texts[row],
                encoding,
                encode=self.encoder.encode,
                inference_id=new_id(),
                rng=rng,
                session=state,
            )
            state = advance_session(self.router, state, decision, at=when)
            logged = self.recording.decision(decision, session_id=session, end_user=user, client_request_id=None)
            into[0].append(replace(logged, occurred_at=when))
            reaction = react(habits, user=user, route=decision.route, right_route=right, rng=rng)
            self._note(row, decision.route, reaction.thumb, first=attempt == 0, right=decision.route == right)
            if reaction.thumb is not None:
                into[1].append(
                    judgement(decision.inference_id, reaction.thumb, self.recording.person(reaction.voter), when)
                )
            if not reaction.asks_again:
                return

    def _note(self, row: int, route: str, thumb: str | None, *, first: bool, right: bool) -> None:
        if first:
            self.right.append(right)
        if thumb is not None:
            self.questions.append(row)
            self.answered_by.append(self.router.position[route])
            self.thumbs.append(1 if thumb == "up" else 0)

    def night(self, day: int) -> tuple[NightResult, float]:
        """Run the night after ``day``; what it publishes serves from now on. Returns its result and seconds."""
        started = time.perf_counter()
        end = self.first_day + timedelta(days=day + 1)
        result = run_night(self.engine, encoder=self.encoder, settings=self.settings, actor="benchmark", until=end)
        seconds = time.perf_counter() - started
        if result.verdict == "published":
            with self.engine.connect() as conn:
                self.router = Router(load(conn, result.version))
        return result, seconds

    def route(self, X: np.ndarray) -> Ints:
        """What serves now would do with questions that nobody asked yet, without exploring, (n,)."""
        return decide_many(self.router, X, explore=False).route


def store_day(engine: Engine, inferences: Sequence[Inference], judgements: Sequence[Feedback]) -> None:
    """Store what happened on a simulated day, as if it had come then and not now."""
    with engine.begin() as conn:
        for start in range(0, len(inferences), 500):
            store_inferences(conn, inferences[start : start + 500])
        for start in range(0, len(judgements), 500):
            store_feedback(conn, judgements[start : start + 500])
        for table in ("inference", "feedback"):
            conn.execute(text(f"update {table} set received_at = occurred_at where received_at <> occurred_at"))  # noqa: S608


def judgement(inference_id: UUID, thumb: str, voter: str | None, when: datetime) -> Feedback:
    """A thumb, some seconds after the answer."""
    return Feedback(
        feedback_id=new_id(),
        target_kind="inference_id",
        target_value=str(inference_id),
        value="up" if thumb == "up" else "down",
        submitter=voter,
        payload_sha256=b"benchmark",
        occurred_at=when + timedelta(seconds=5),
    )
