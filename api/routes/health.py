"""Liveness, readiness, metrics."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from api.state import state_of
from telemetry.database import DatabaseUnavailable

router = APIRouter(tags=["health"])
_DRAINING = "This server was told to stop; it answers what still comes, so send what follows to another one."
_KEYS_UNKNOWN = "The list of API keys is not known yet, and until then nobody is let in."
_STUCK = "A write of events hangs; if this lasts for longer than half a minute, restart this process."


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Tell that the process answers; asks no database."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """Tell whether requests may be sent here: ready, degraded (decides, but cannot store), or 503."""
    state = state_of(request)
    database = await state.pulse.beats()
    current = state.watch.current
    serving = current is not None and state.admission.knows and not state.draining
    away = None if database else str(DatabaseUnavailable.__doc__)
    leaving = _DRAINING if state.draining else None
    unknown = None if state.admission.knows else _KEYS_UNKNOWN
    problem = leaving or state.watch.problem or away or unknown or (_STUCK if state.intake.stuck else None)
    status = "unavailable" if not serving else "degraded" if problem else "ready"
    body: dict[str, Any] = {
        "status": status,
        "draining": state.draining,
        "router_version": None if current is None else current.version.number,
        "database": "ok" if database else "unavailable",
        "problem": problem,
        "events_waiting": state.intake.waiting,
        "decisions_not_logged": state.intake.counts["unlogged"],
    }
    return JSONResponse(body, status_code=200 if serving else 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return Prometheus metrics of this server, all its processes together."""
    return Response(state_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
