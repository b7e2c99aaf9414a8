"""Decide: POST /v1/route."""

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from api.bodies import body_of, parse_body
from api.deciding import Question
from api.errors import ApiError
from api.schemas import RouteRequest
from api.state import ServerState, state_of
from router.decision import Decision, RoutedSegment
from router.explain import explain
from router.fleet import Fleet
from telemetry.records import Inference

router = APIRouter(prefix="/v1", tags=["decide"])


@router.post("/route", openapi_extra=body_of(RouteRequest))
async def decide_route(request: Request) -> JSONResponse:
    """Decide where a query goes: one segment, or several when it asks several things of different routes."""
    state = state_of(request)
    asked, size = await parse_body(request, RouteRequest, limit=state.settings.max_body_bytes)
    if len(asked.query) > state.settings.max_query_chars:
        raise ApiError(422, "query_too_long", f"The query has over {state.settings.max_query_chars:,} characters.")
    began = time.perf_counter()
    decision = await state.deciding.decide(
        Question(query=asked.query, session_id=asked.session_id, pinned=asked.metadata.route, explore=asked.explore)
    )
    state.metrics.decide_seconds.observe(time.perf_counter() - began)
    logged = _log(state, asked, decision, size=size)
    shown = decision_json(decision, fleet=state.watch.fleet_of(decision.router_version))
    if logged is not None:
        shown["feedback_token"] = state.signer.issue(
            decision.inference_id, end_user=logged.end_user, session_id=asked.session_id
        )
    answer = JSONResponse(shown)
    answer.headers["x-request-id"] = str(decision.inference_id)
    answer.headers["x-trimtab-route"] = decision.route
    answer.headers["x-trimtab-version"] = str(decision.router_version)
    return answer


def _log(state: ServerState, asked: RouteRequest, decision: Decision, *, size: int) -> Inference | None:
    """Hand the decision to the intake and return it as it is logged, None when it shall not be.

    A full queue never holds up an answer, it is counted.
    """
    state.metrics.splits.labels("yes" if len(decision.segments) > 1 else "no").inc()
    for segment in decision.segments:
        state.metrics.decisions.labels(segment.route, segment.cause).inc()
    if not asked.log:
        return None
    record = state.recording.decision(
        decision,
        session_id=asked.session_id,
        end_user=asked.metadata.end_user,
        client_request_id=asked.metadata.client_request_id,
    )
    if not state.intake.store_later(record, size=size + 1_000):
        state.intake.counts["unlogged"] += 1
    return record


def decision_json(decision: Decision, *, fleet: Fleet | None) -> dict[str, Any]:
    """Return a decision as the API and the command line show it."""
    models = {route.name: route.model for route in fleet.routes} if fleet else {}
    return {
        "inference_id": str(decision.inference_id),
        "route": decision.route,
        "router_version": decision.router_version,
        "fingerprint": decision.fingerprint,
        "policy": decision.policy,
        "segments": [_segment_json(i, s, model=models.get(s.route, "")) for i, s in enumerate(decision.segments)],
        "split": {
            "reason": decision.split.reason,
            "utility_whole": round(decision.split.utility_whole, 4),
            "utility_split": None if decision.split.utility_split is None else round(decision.split.utility_split, 4),
            "boundaries": [
                {"start": b.start, "probability": round(b.probability, 4)} for b in decision.split.boundaries
            ],
        },
        "explanation": explain(decision),
    }


def _segment_json(index: int, segment: RoutedSegment, *, model: str) -> dict[str, Any]:
    return {
        "segment_index": index,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "route": segment.route,
        "model": model,
        "score": round(segment.score, 4),
        "margin": round(segment.margin, 4),
        "propensity": segment.propensity,
        "explored": segment.explored,
        "cause": segment.cause,
        "candidates": [
            {
                "route": c.route,
                "probability": round(c.probability, 4),
                "utility": round(c.utility, 4),
                "similarity": round(c.similarity, 4),
            }
            for c in segment.candidates
        ],
    }
