"""Nights: start one, look at one, and the failures they mined."""

import asyncio
import sys
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import Connection

from api.bodies import body_of, parse_body
from api.errors import ApiError
from api.lists import json_row, json_value
from api.schemas import LearnRequest
from api.state import ServerState, state_of
from router.activations import history
from telemetry.ids import new_id
from telemetry.learner_runs import list_failures, list_runs, read_run, who_learns

router = APIRouter(prefix="/v1", tags=["learner"])
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post("/learner/runs", status_code=202, openapi_extra=body_of(LearnRequest))
async def start_run(request: Request) -> JSONResponse:
    """Start a night in a process of its own; look at it under the id that is answered. 409: a learner is at work."""
    state = state_of(request)
    wanted, _ = await parse_body(request, LearnRequest, limit=state.settings.max_body_bytes)
    children, run_id = request.app.state.children, new_id()
    if children:  # one that was just started may not hold the lease yet
        raise _busy()
    children.add(run_id)  # before anything is waited for: of two that come at once, one starts
    try:
        if await state.changes.ask(who_learns) is not None:
            raise _busy()
        process = await _start(state, run_id, *(["--force"] if wanted.force else []))
        children.add(waiting := asyncio.create_task(process.wait()))
        waiting.add_done_callback(children.discard)
    finally:
        children.discard(run_id)
    where = f"/v1/learner/runs/{run_id}"
    return JSONResponse({"run_id": str(run_id), "status": "started"}, status_code=202, headers={"Location": where})


def _busy() -> ApiError:
    return ApiError(409, "learner_busy", "A learner is at work; wait until it is done (or a minute, if it was killed).")


async def _start(state: ServerState, run_id: UUID, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api.cli.main", "learn", "--run-id", str(run_id), "--json", *options),
        env=state.settings.child_environment(database_url=state.database_url),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


@router.get("/learner/runs")
async def get_runs(request: Request, after: UUID | None = None, limit: Limit = 50) -> Response:
    """List nights, newest first."""
    return await state_of(request).show_list(
        lambda conn: list_runs(conn, after=after, limit=limit + 1),
        limit=limit,
        id_of=lambda r: r["run_id"],
        form=json_row,
    )


@router.get("/learner/runs/{run_id}")
async def get_run(request: Request, run_id: UUID) -> Response:
    """Return one night: window, counts, verdict with reasons, report, and what became of its version since."""

    def read(conn: Connection) -> dict[str, Any]:
        row = read_run(conn, run_id)
        if row is None:
            detail = "There is no night with this id; one just started may take some seconds."
            raise ApiError(404, "unknown_run", detail)
        since = [] if row["candidate"] is None else history(conn, version=row["candidate"], limit=None, order="asc")
        return {**json_row(row), "activations": json_value(since)}

    return await state_of(request).show(read)


@router.get("/failures")
async def get_failures(
    request: Request,
    run_id: UUID | None = None,
    kind: str | None = None,
    after: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    limit: Limit = 100,
) -> Response:
    """List the failures that a night mined (the newest night when none is named)."""
    wanted = None if kind is None else kind.encode("utf-8", "replace").decode().replace("\0", "?")
    return await state_of(request).show_list(
        lambda conn: list_failures(conn, run_id=run_id, kind=wanted, after=after, limit=limit + 1),
        limit=limit,
        id_of=lambda r: r["failure_id"],
        form=json_row,
    )
