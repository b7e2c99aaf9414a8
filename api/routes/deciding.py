"""Decide: POST /v1/route."""

import asyncio
import time
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote

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
    # Behind the answer: asyncio writes what was sent before it calls this.
    asyncio.get_running_loop().call_soon(partial(_log, state, asked, decision, size=size))
    shown = decision_json(decision, fleet=state.watch.fleet_of(decision.router_version))
    if asked.log:
        end_user = state.recording.person(asked.metadata.end_user)
        shown["feedback_token"] = state.signer.issue(
            decision.inference_id, end_user=end_user, session_id=asked.session_id
        )
    return JSONResponse(
        shown,
        headers={
            "x-request-id": str(decision.inference_id),
            "x-trimtab-route": _header_text(decision.route),
            "x-trimtab-version": str(decision.router_version),
        },
    )


@lru_cache(maxsize=4096)
def _header_text(name: str) -> str:
    """The name as a header can carry it: what is not plain ASCII, and %, as percent-encoded UTF-8."""
    return quote(name, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")


def _log(state: ServerState, asked: RouteRequest, decision: Decision, *, size: int) -> None:
    """Count the decision and hand it to the intake; a full queue never holds up an answer, it is counted."""
    metrics = state.metrics
    metrics.count(metrics.splits, "yes" if len(decision.segments) > 1 else "no")
    for segment in decision.segments:
        metrics.count(metrics.decisions, segment.route, segment.cause)
    if not asked.log:
        return
    record = state.recording.decision(
        decision,
        session_id=asked.session_id,
        end_user=asked.metadata.end_user,
        client_request_id=asked.metadata.client_request_id,
    )
    if not state.intake.store_later(record, size=size + 1_000):
        state.intake.counts["unlogged"] += 1


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
