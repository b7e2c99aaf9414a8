"""Log and read what happened: /v1/inferences, /v1/inferences:batch, /v1/dead-letters."""

import json
import math
from functools import lru_cache
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, ValidationError, create_model

from api.bodies import body_of, parse_body, read_body
from api.errors import ApiError, validation_errors
from api.lists import json_row
from api.schemas import InferenceEvent, Strict
from api.shedding import work_begins
from api.state import ServerState, state_of
from router.registry import active, list_versions
from telemetry.dead_letters import list_dead_letters
from telemetry.inference_reading import StoredInference, list_inferences, read_inference
from telemetry.records import Inference, StoreResult

router = APIRouter(prefix="/v1", tags=["log"])
Limit = Annotated[int, Query(ge=1, le=1000)]
_HTTP = {"stored": 201, "duplicate": 200, "conflict": 422, "missing": 404, "quarantined": 422}
_MESSAGES = {
    "conflict": "This id is taken by an event with another body; nothing was changed.",
    "quarantined": "The database refused a value of this event; it is kept among the dead letters.",
}
_BATCH_SCHEMA = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "array", "items": {"$ref": "#/components/schemas/InferenceEvent"}}},
}


@router.post("/inferences", status_code=201, openapi_extra=body_of(InferenceEvent))
async def log_inference(request: Request) -> JSONResponse:
    """Log one inference. 201: stored and committed; 200: it was there already; 422: another body had this id."""
    state = state_of(request)
    event, size = await parse_body(request, InferenceEvent, limit=state.settings.max_body_bytes)
    (result,) = await state.intake.store([state.recording.inference(event)], size=size)
    status = _HTTP[result.status]
    if status >= 400:
        raise ApiError(status, result.status, result.message or _MESSAGES[result.status])
    return JSONResponse({"inference_id": str(result.id), "status": result.status}, status_code=status)


@router.post(
    "/inferences:batch",
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _BATCH_SCHEMA}}}},
)
async def log_inferences(request: Request) -> JSONResponse:
    """Log up to 1,000 inferences. 200: all well; 207: some were refused, see results; 422: none was taken."""
    state = state_of(request)
    raw = await read_body(request, limit=state.settings.max_body_bytes)
    async with state.intake.turn():
        work_begins(request.scope)
        parsed = _read_batch(state, raw)
    good = [record for record in parsed if isinstance(record, Inference)]
    stored = iter(await state.intake.store(good, size=len(raw)) if good else [])
    results = [_result(i, next(stored) if isinstance(p, Inference) else p) for i, p in enumerate(parsed)]
    accepted = sum(r["status"] == 201 for r in results)
    duplicates = sum(r["status"] == 200 for r in results)
    rejected = len(results) - accepted - duplicates
    body = {"accepted": accepted, "duplicates": duplicates, "rejected": rejected, "results": results}
    return _BatchAnswer(body, status_code=200 if not rejected else 207 if rejected < len(results) else 422)


class _BatchAnswer(JSONResponse):
    """A thousand results are written by what takes ids as they are and a fraction of json's time."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return orjson.dumps(content)


def _read_batch(state: ServerState, raw: bytes) -> list[Inference | ValidationError]:
    """Read all at once; only where that fails, one by one, so that a bad item is refused alone."""
    most = state.settings.max_batch
    try:
        events: list[InferenceEvent] = _batch(most).model_validate_json(raw).data  # type: ignore[attr-defined]
    except ValidationError:
        return [_parse(state, item) for item in _items(raw, most=most)]
    return [state.recording.inference(event) for event in events]


@lru_cache(maxsize=4)
def _batch(most: int) -> type[Strict]:
    events = Annotated[list[InferenceEvent], Field(min_length=1, max_length=most)]
    return create_model("InferenceBatch", __base__=Strict, data=events)


def _items(raw: bytes, *, most: int) -> list[Any]:
    try:
        body = json.loads(raw.decode(), parse_int=_whole)  # of bytes it would guess the encoding
    except (ValueError, RecursionError):
        raise ApiError(422, "invalid_json", "The body is not valid JSON.") from None
    items = body.get("data") if isinstance(body, dict) and set(body) == {"data"} else None
    if not isinstance(items, list) or not items:
        raise ApiError(422, "invalid_request", 'The body must be {"data": [...]} with at least one inference.')
    if len(items) > most:
        raise ApiError(413, "too_large", f"A batch has at most {most:,} inferences; send several.")
    return items


def _whole(digits: str) -> int | float:
    """The number; infinite, which no field takes, where it is longer than Python reads, so that its item is refused."""
    try:
        return int(digits)
    except ValueError:
        return math.inf


def _parse(state: ServerState, item: Any) -> Inference | ValidationError:
    try:
        # Through JSON again: strict mode takes ids and times as text only there.
        return state.recording.inference(InferenceEvent.model_validate_json(json.dumps(item)))
    except ValidationError as error:
        return error


def _result(index: int, result: StoreResult | ValidationError) -> dict[str, Any]:
    if isinstance(result, ValidationError):
        first = validation_errors(result)[0]
        message = f"{first['where']}: {first['problem']}" if first["where"] else first["problem"]
        return {"index": index, "id": None, "status": 422, "code": "invalid_request", "message": message}
    message = result.message or _MESSAGES.get(result.status, "")
    code, status = result.status, _HTTP[result.status]
    return {"index": index, "id": result.id, "status": status, "code": code, "message": message}


@router.get("/inferences/{inference_id}")
async def get_inference(request: Request, inference_id: UUID) -> Response:
    """Return everything about one inference: decision, why, outcome, feedback, failures, and who learned from it."""

    def read(conn: Any) -> dict[str, Any]:
        stored = read_inference(conn, inference_id)
        if stored is None:
            raise ApiError(404, "unknown_inference", "There is no inference with this id.")
        return inference_json(stored, version=served_by(conn, stored))

    return await state_of(request).show(read)


def served_by(conn: Any, stored: StoredInference) -> dict[str, Any] | None:
    """Return the version that served the inference, None when that is not known."""
    number = stored.inference["router_version"]
    if not number:
        return None
    found = list_versions(conn, after=number + 1, limit=1)
    if not found or found[0].number != number:
        return None
    now = active(conn)
    return {
        "number": number,
        "fingerprint": found[0].fingerprint,
        "status": found[0].status,
        "serves_now": now is not None and now.version == number,
    }


def inference_json(stored: StoredInference, *, version: dict[str, Any] | None) -> dict[str, Any]:
    """Return one inference with all that belongs to it, as the API and the command line show it."""
    payload = None if stored.payload is None else json_row(stored.payload, without=("inference_id",))
    return {
        **json_row(stored.inference),
        "version": version,
        "payload": payload,
        "segments": [json_row(row, without=("inference_id", "embedding")) for row in stored.segments],
        "feedback": [json_row(row, without=("inference_id",)) for row in stored.feedback],
        "failures": [json_row(row, without=("inference_id",)) for row in stored.failures],
        "learned_by_versions": list(stored.learned_by),
    }


@router.get("/inferences")
async def get_inferences(
    request: Request, after: UUID | None = None, limit: Limit = 100, session_id: str | None = None
) -> Response:
    """List inferences, newest first."""
    return await state_of(request).show_list(
        lambda conn: list_inferences(conn, after=after, limit=limit + 1, session_id=_clean(session_id)),
        limit=limit,
        id_of=lambda r: r["inference_id"],
        form=json_row,
    )


def _clean(value: str | None) -> str | None:
    """No stored id has a NUL or a lone surrogate, and the database takes neither."""
    return value if value is None else value.encode("utf-8", "replace").decode().replace("\0", "?")


@router.get("/dead-letters")
async def get_dead_letters(
    request: Request, after: Annotated[int | None, Query(ge=1, lt=2**62)] = None, limit: Limit = 100
) -> Response:
    """List what could not be stored, newest first; the raw bytes stay in the database."""
    return await state_of(request).show_list(
        lambda conn: list_dead_letters(conn, after=after, limit=limit + 1),
        limit=limit,
        id_of=lambda r: r["dead_letter_id"],
        form=json_row,
    )
