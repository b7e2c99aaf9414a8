"""Rollouts: what is on trial, try a version, move it on, pin."""

from typing import Any

from fastapi import APIRouter, Request, Response

from api.bodies import body_of, parse_body
from api.rollouts import rollout_json
from api.routes.versions import Number, activation_json
from api.schemas import PinRequest, PromoteRequest, TrialRequest
from api.state import state_of
from router.plan import read_plan
from router.rollout import end_hold_out, pin, promote, start_trial, unpin

router = APIRouter(prefix="/v1/router", tags=["rollouts"])


@router.get("/rollout")
async def get_rollout(request: Request) -> Response:
    """Return what serves, what is on trial, what its sessions have shown, what comes next, and what is pinned."""
    state = state_of(request)
    return await state.show(lambda conn: rollout_json(conn, state.settings.rollout))


@router.post("/versions/{number}/trial", openapi_extra=body_of(TrialRequest))
async def try_version(request: Request, number: Number) -> dict[str, Any]:
    """Let a version decide beside the serving one, for nobody (shadow) or for a share of the sessions (canary)."""
    state = state_of(request)
    wanted, _ = await parse_body(request, TrialRequest, limit=state.settings.max_body_bytes)
    activation = await state.changes.ask(
        lambda conn: start_trial(
            conn,
            number,
            mode=wanted.mode,
            share=wanted.share or state.settings.rollout.first_share,
            actor=wanted.actor,
            reason=wanted.reason,
            if_seq=wanted.if_seq,
        )
    )
    return activation_json(activation)


@router.post("/rollout/promote", openapi_extra=body_of(PromoteRequest))
async def promote_version(request: Request) -> dict[str, Any]:
    """Let the version on trial serve all sessions but the hold-out; in a hold-out, end it."""
    state = state_of(request)
    wanted, _ = await parse_body(request, PromoteRequest, limit=state.settings.max_body_bytes)

    def move(conn: Any) -> Any:
        plan = read_plan(conn)
        if plan is not None and plan.mode == "holdout":
            return end_hold_out(conn, actor=wanted.actor, reason=wanted.reason)
        return promote(conn, settings=state.settings.rollout, actor=wanted.actor, reason=wanted.reason)

    return activation_json(await state.changes.ask(move))


@router.post("/pin", openapi_extra=body_of(PinRequest))
async def pin_it(request: Request) -> dict[str, Any]:
    """Pin a version, so that nothing automatic changes what serves, or a route, so that nights leave it as it is."""
    state = state_of(request)
    wanted, _ = await parse_body(request, PinRequest, limit=state.settings.max_body_bytes)
    return activation_json(
        await state.changes.ask(
            lambda conn: pin(conn, version=wanted.version, route=wanted.route, actor=wanted.actor, reason=wanted.reason)
        )
    )


@router.post("/unpin", openapi_extra=body_of(PinRequest))
async def unpin_it(request: Request) -> dict[str, Any]:
    """End the pin of the version, or of the route that is named."""
    state = state_of(request)
    wanted, _ = await parse_body(request, PinRequest, limit=state.settings.max_body_bytes)
    return activation_json(
        await state.changes.ask(lambda conn: unpin(conn, route=wanted.route, actor=wanted.actor, reason=wanted.reason))
    )
