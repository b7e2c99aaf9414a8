"""Judge: /v1/feedback with revise and withdraw."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from api.admission import caller_of
from api.bodies import body_of, parse_body
from api.errors import ApiError
from api.lists import json_list, json_row
from api.schemas import FeedbackEvent, Judgement
from api.state import ServerState, state_of
from telemetry.feedback import list_feedback, read_feedback
from telemetry.records import Feedback, StoreResult

router = APIRouter(prefix="/v1", tags=["feedback"])


@router.post("/feedback", status_code=201, openapi_extra=body_of(FeedbackEvent))
async def give_feedback(request: Request) -> JSONResponse:
    """Judge an inference. 201: stored; 200: was there already; 202: stored, and waits for its inference."""
    state = state_of(request)
    state.intake.refuse_when_full()
    event, size = await parse_body(request, FeedbackEvent, limit=state.settings.max_body_bytes)
    record = state.recording.feedback(event, principal=caller_of(request).principal)
    return _answer(await _store(state, record, size=size))


@router.put("/feedback/{feedback_id}", openapi_extra=body_of(Judgement))
async def revise_feedback(request: Request, feedback_id: UUID) -> JSONResponse:
    """Revise a judgement; the newest revision counts."""
    state = state_of(request)
    judgement, size = await parse_body(request, Judgement, limit=state.settings.max_body_bytes)
    return _answer(await _store(state, state.recording.revision(feedback_id, judgement), size=size))


@router.delete("/feedback/{feedback_id}")
async def withdraw_feedback(request: Request, feedback_id: UUID) -> JSONResponse:
    """Withdraw a judgement; the next night unlearns it."""
    state = state_of(request)
    return _answer(await _store(state, state.recording.revision(feedback_id, None), size=100))


async def _store(state: ServerState, item: Feedback, *, size: int) -> StoreResult:
    current = state.watch.current
    if item.correction is not None and current is not None and item.correction not in current.position:
        raise ApiError(422, "unknown_route", "The correction names no route of the fleet that serves.")
    (result,) = await state.intake.store([item], size=size)
    if result.status == "missing":
        raise ApiError(404, "unknown_feedback", "There is no feedback with this id.")
    if result.status == "conflict":
        raise ApiError(422, "conflict", "This id is taken by feedback with another body; revise it with PUT.")
    return result


def _answer(result: StoreResult) -> JSONResponse:
    created = result.status == "stored" and result.revision == 1
    status = 202 if result.resolution != "resolved" and created else 201 if created else 200
    body = {
        "feedback_id": str(result.id),
        "status": result.status,
        "resolution": result.resolution,
        "revision": result.revision,
    }
    return JSONResponse(body, status_code=status)


@router.get("/feedback/{feedback_id}")
async def get_feedback(request: Request, feedback_id: UUID) -> dict[str, Any]:
    """Return a judgement with all its revisions, oldest first."""
    rows = await state_of(request).read(lambda conn: read_feedback(conn, feedback_id))
    if not rows:
        raise ApiError(404, "unknown_feedback", "There is no feedback with this id.")
    return {"feedback_id": str(feedback_id), "revisions": [json_row(row) for row in rows]}


@router.get("/feedback")
async def get_feedback_list(
    request: Request,
    resolution: Literal["resolved", "pending", "orphaned", "ambiguous"] | None = None,
    after: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """List feedback, newest first; ``resolution=orphaned`` shows what never found its inference."""
    rows = await state_of(request).read(
        lambda conn: list_feedback(conn, resolution=resolution, after=after, limit=limit + 1)
    )
    result: dict[str, Any] = json_list(rows, limit=limit, id_of=lambda r: r["feedback_id"], form=json_row)
    return result
