"""The golden set: queries that must always go where they belong."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from api.bodies import body_of, parse_body
from api.lists import json_value
from api.schemas import GoldenRequest
from api.state import state_of
from router.golden import keep_golden
from telemetry.golden import golden, list_golden, promoted, remove_golden

router = APIRouter(prefix="/v1/golden", tags=["golden"])
Limit = Annotated[int, Query(ge=1, le=1000)]
GoldenId = Annotated[str, Path(max_length=64)]


@router.get("")
async def get_golden(
    request: Request, after: Annotated[str | None, Query(max_length=64)] = None, limit: Limit = 100
) -> Response:
    """List golden queries with the routes that they must go to."""
    known = after if after is not None and re.fullmatch("[0-9a-f]*", after) else None
    return await state_of(request).show_list(
        lambda conn: list_golden(conn, after=known, limit=limit + 1),
        limit=limit,
        id_of=lambda r: r.golden_id,
        form=json_value,
    )


@router.post("", status_code=201, openapi_extra=body_of(GoldenRequest))
async def add_golden(request: Request) -> dict[str, Any]:
    """Add a golden query, or make one of a judged inference; one that is there already gets the new routes."""
    state = state_of(request)
    wanted, _ = await parse_body(request, GoldenRequest, limit=state.settings.max_body_bytes)

    def add(conn: Any) -> Any:
        if wanted.inference_id is not None:
            item = promoted(conn, wanted.inference_id, wanted.routes, by=wanted.actor)
        else:
            item = golden(wanted.query or "", wanted.routes, by=wanted.actor)
        keep_golden(conn, [item])
        return item

    result: dict[str, Any] = json_value(await state.changes.ask(add))
    return result


@router.delete("/{golden_id}", status_code=204)
async def delete_golden(request: Request, golden_id: GoldenId) -> Response:
    """Take a golden query out."""
    known = golden_id if re.fullmatch("[0-9a-f]+", golden_id) else ""
    await state_of(request).changes.ask(lambda conn: remove_golden(conn, known))
    return Response(status_code=204)
