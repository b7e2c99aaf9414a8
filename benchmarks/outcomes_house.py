"""The real loop under ``benchmarks.outcomes``: a fleet of models that learns from thumbs on the answers it chose."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import Engine

from api.recording import Recording
from benchmarks.feedback_house import judgement, store_day
from benchmarks.feedback_world import KnownEmbeddings
from benchmarks.outcomes_data import Ints, Outcomes
from learner.first_version import build_first_version
from learner.nightly import NightResult, run_night
from learner.settings import LearnerSettings
from router.decide import Router, decide, decide_many
from router.encoder import Encoding
from router.fleet import Fleet, Route
from router.registry import load, publish
from telemetry.ids import new_id
from telemetry.records import Feedback, Inference, OutcomeRecord


class ModelHouse:
    """A fleet of models, a database and what serves; every question comes from another user."""

    def __init__(
        self,
        engine: Engine,
        data: Outcomes,
        *,
        cost_weight: float,
        encoder: KnownEmbeddings,
        settings: LearnerSettings,
        nights: int,
    ) -> None:
        self.engine, self.data, self.encoder, self.settings = engine, data, encoder, settings
        self.first_day = datetime.now(UTC) - timedelta(days=nights + 1)
        self.recording = Recording(store_text="full", key=b"benchmark")
        routes = [
            Route(name=model, model=model, input_cost_per_token=price[0], output_cost_per_token=price[1])
            for model, price in zip(data.models, data.prices.tolist(), strict=True)
        ]
        fleet = Fleet(fallback=data.models[0], routes=tuple(routes), cost_weight=cost_weight)
        first = build_first_version(fleet, encoder=encoder, settings=settings)
        with engine.begin() as conn:
            number = publish(conn, first, actor="benchmark", reason="first version", parent=None).number
            self.router = Router(load(conn, number))

    def live(self, day: int, rows: Ints, *, pleased_from: float, rated: float, rng: np.random.Generator) -> None:
        """One day: each question is decided, answered by the model that was chosen, and judged by a thumb."""
        inferences: list[Inference] = []
        judgements: list[Feedback] = []
        for i, row in enumerate(rows):
            at = self.first_day + timedelta(days=day, seconds=86_000 * i / len(rows))
            decision = decide(
                self.router,
                self.data.texts[row],
                Encoding(embedding=self.data.X[row]),
                encode=self.encoder.encode,
                inference_id=new_id(),
                rng=rng,
            )
            model = self.router.position[decision.route]
            user = f"user {day}-{i}"
            logged = self.recording.decision(decision, session_id=user, end_user=user, client_request_id=None)
            outcome = OutcomeRecord(cost=float(self.data.cost[row, model]), finish_reason="stop")
            inferences.append(replace(logged, outcome=outcome, occurred_at=at))
            if rng.random() < rated:
                thumb = "up" if self.data.reward[row, model] >= pleased_from else "down"
                judgements.append(judgement(decision.inference_id, thumb, self.recording.person(user), at))
        store_day(self.engine, inferences, judgements)

    def night(self, day: int) -> NightResult:
        """Run the night after ``day``; what it publishes serves from now on."""
        end = self.first_day + timedelta(days=day + 1)
        result = run_night(self.engine, encoder=self.encoder, settings=self.settings, actor="benchmark", until=end)
        if result.verdict == "published":
            with self.engine.connect() as conn:
                self.router = Router(load(conn, result.version))
        return result

    def choose(self, rows: Ints) -> Ints:
        """What serves now would do with these questions, without exploring, (n,)."""
        texts = [self.data.texts[row] for row in rows]
        return decide_many(self.router, self.data.X[rows], texts=texts, explore=False).route
