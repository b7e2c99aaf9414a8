"""Judge: /v1/feedback with revise and withdraw."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import Connection

from api.admission import caller_of
from api.bodies import body_of, parse_body
from api.errors import ApiError
from api.feedback_tokens import FeedbackToken
from api.lists import json_row
from api.schemas import FeedbackEvent, Judgement, TokenRequest
from api.state import ServerState, state_of
from telemetry.feedback import is_stored, list_feedback, read_feedback
from telemetry.inference_reading import who_asked
from telemetry.records import Feedback, StoreResult

router = APIRouter(prefix="/v1", tags=["feedback"])
_PLACE = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(:[0-9]{1,9})?$"


@router.post("/feedback", status_code=201, openapi_extra=body_of(FeedbackEvent))
async def give_feedback(request: Request) -> JSONResponse:
    """Judge an inference. 201: stored; 200: was there already; 202: stored, and waits for its inference."""
    state, caller = state_of(request), caller_of(request)
    event, size = await parse_body(request, FeedbackEvent, limit=state.settings.max_body_bytes)
    record = state.recording.feedback(event, principal=caller.principal)
    if caller.token is None:
        return _answer(await _store(state, record, size=size))
    return _answer(await _vote(state, event, _by_token(record, event, caller.token), size=size))


def _by_token(record: Feedback, event: FeedbackEvent, token: FeedbackToken) -> Feedback:
    """The judgement as the token's holder may give it: one for the inference and each segment, as who asked.

    Raises:
        ApiError: it says more than that.
    """
    if event.inference_id != token.inference_id:
        raise _not_its_own()
    if event.feedback_id or event.submitter or event.annotator_kind != "HUMAN":
        detail = "With a feedback token, feedback_id, submitter and annotator_kind are known; leave them out."
        raise ApiError(403, "not_with_token", detail)
    return replace(record, feedback_id=token.feedback_id(event.segment_index), submitter=token.judge)


def _not_its_own() -> ApiError:
    return ApiError(403, "not_with_token", "This feedback token is for another inference.")


async def _vote(state: ServerState, event: FeedbackEvent, record: Feedback, *, size: int) -> StoreResult:
    """Store the one judgement of a token's holder: a second one revises the first."""
    await _check_route(state, record)
    (result,) = await state.intake.store([record], size=size)
    if result.status == "stored":
        return result
    if result.message:
        raise ApiError(422, "unknown_segment", result.message)
    return await _store(state, state.recording.revision(record.feedback_id, event), size=size)


@router.put("/feedback/{feedback_id}", openapi_extra=body_of(Judgement))
async def revise_feedback(request: Request, feedback_id: UUID) -> JSONResponse:
    """Revise a judgement; the newest revision counts."""
    state = _own(request, feedback_id)
    judgement, size = await parse_body(request, Judgement, limit=state.settings.max_body_bytes)
    return _answer(await _store(state, state.recording.revision(feedback_id, judgement), size=size))


@router.delete("/feedback/{feedback_id}")
async def withdraw_feedback(request: Request, feedback_id: UUID) -> JSONResponse:
    """Withdraw a judgement; the next night unlearns it."""
    state = _own(request, feedback_id)
    return _answer(await _store(state, state.recording.revision(feedback_id, None), size=100))


@router.post("/feedback-tokens", status_code=201, openapi_extra=body_of(TokenRequest))
async def make_token(request: Request) -> dict[str, Any]:
    """Make a token with which a browser can judge one logged inference; a decision comes with one of its own."""
    state = state_of(request)
    wanted, _ = await parse_body(request, TokenRequest, limit=state.settings.max_body_bytes)
    who = await state.changes.ask(lambda conn: who_asked(conn, wanted.inference_id))
    if who is None:
        raise ApiError(404, "unknown_inference", "There is no inference with this id.")
    token = state.signer.issue(wanted.inference_id, end_user=who["end_user"], session_id=who["session_id"])
    if token is None:
        raise ApiError(409, "no_tokens", "Feedback tokens are turned off; set TRIMTAB_FEEDBACK_TOKEN_HOURS.")
    return {"inference_id": str(wanted.inference_id), "feedback_token": token}


def _own(request: Request, feedback_id: UUID) -> ServerState:
    """Return the server's state; a token's holder may only touch what was given with a token for its inference."""
    token = caller_of(request).token
    if token is not None and not token.owns(feedback_id):
        raise _not_its_own()
    return state_of(request)


async def _check_route(state: ServerState, item: Feedback) -> None:
    """Refuse a correction that names no route; what was stored while the fleet still had it may be sent again."""
    current = state.watch.current
    if item.correction is None or current is None or item.correction in current.position:
        return
    if not await state.changes.ask(lambda conn: is_stored(conn, item)):
        raise ApiError(422, "unknown_route", "The correction names no route of the fleet that serves.")


async def _store(state: ServerState, item: Feedback, *, size: int) -> StoreResult:
    await _check_route(state, item)
    (result,) = await state.intake.store([item], size=size)
    if result.status == "missing":
        raise ApiError(404, "unknown_feedback", "There is no feedback with this id.")
    if result.status == "conflict" and result.message:
        raise ApiError(422, "unknown_segment", result.message)
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
async def get_feedback(request: Request, feedback_id: UUID) -> Response:
    """Return a judgement with all its revisions, oldest first."""

    def read(conn: Connection) -> dict[str, Any]:
        rows = read_feedback(conn, feedback_id)
        if not rows:
            raise ApiError(404, "unknown_feedback", "There is no feedback with this id.")
        return {"feedback_id": feedback_id, "revisions": [json_row(row) for row in rows]}

    return await state_of(request).show(read)


@router.get("/feedback")
async def get_feedback_list(
    request: Request,
    resolution: Literal["resolved", "pending", "orphaned", "ambiguous"] | None = None,
    after: Annotated[str | None, Query(pattern=_PLACE)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """List all revisions of feedback, newest first; ``resolution=orphaned`` shows what never found its inference."""
    return await state_of(request).show_list(
        lambda conn: list_feedback(conn, resolution=resolution, after=_place(after), limit=limit + 1),
        limit=limit,
        id_of=_name_place,
        form=json_row,
    )


def _name_place(row: Mapping[Any, Any]) -> str:
    """Name a place in the list: a judgement has several rows there, one for each revision."""
    return f"{row['feedback_id']}:{row['revision']}"


def _place(name: str | None) -> tuple[UUID, int] | None:
    """The feedback's id and revision; an id alone names the place behind all of its revisions."""
    if name is None:
        return None
    feedback_id, _, revision = name.partition(":")
    return UUID(feedback_id), int(revision or 0)
