"""Router versions: list, look at, activate, roll back, and what served when."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AwareDatetime
from sqlalchemy import Connection

from api.bodies import body_of, parse_body
from api.errors import ApiError
from api.lists import json_value
from api.schemas import RollbackRequest, SwitchRequest
from api.state import state_of
from router.difference import changed_decisions, compare
from router.moved_by import followed_votes
from router.plan import read_plan
from router.registry import (
    Activation,
    VersionRecord,
    activate,
    history,
    list_versions,
    load,
    read_version,
    rollback,
)
from telemetry.inference_reading import logged_queries

_QUERIES = 1_000  # a server has other things to do; trimtab diff looks at more

router = APIRouter(prefix="/v1/router", tags=["versions"])
Number = Annotated[int, Path(ge=0, lt=2**31)]
Limit = Annotated[int, Query(ge=1, le=1000)]
After = Annotated[int | None, Query(ge=0, lt=2**31)]


def version_json(record: VersionRecord, *, report: bool = False) -> dict[str, Any]:
    """Return a version as the API and the command line show it."""
    shown: dict[str, Any] = json_value(asdict(record))
    if not report:
        shown.pop("report")
        shown.pop("manifest")
    return shown


def activation_json(activation: Activation) -> dict[str, Any]:
    """Return one row of the history."""
    shown: dict[str, Any] = json_value(asdict(activation))
    return shown


def version_with_difference(conn: Connection, number: int) -> dict[str, Any]:
    """Return a version with its report and how it differs from its parent.

    Raises:
        UnknownVersion: there is none of this number.
    """
    record = read_version(conn, number)
    shown = version_json(record, report=True)
    shown["difference"] = None
    if record.parent is not None:
        shown["difference"] = difference_json(conn, record.parent, number, queries=_QUERIES)
    return shown


def active_json(conn: Connection, *, at: datetime | None) -> dict[str, Any] | None:
    """Return what serves now or served at a time, with what was on trial or held out beside it; None for nothing."""
    plan = read_plan(conn, at=at)
    if plan is None:
        return None
    beside = None if plan.side is None else activation_json(plan.side)
    fingerprint = read_version(conn, plan.main.version).fingerprint
    return {**activation_json(plan.main), "fingerprint": fingerprint, "beside": beside}


def difference_json(conn: Connection, before: int, after: int, *, queries: int) -> dict[str, Any]:
    """Return how two versions differ: centroids by route, which logged queries change route and why, followed votes.

    Args:
        conn: where both are stored.
        before: the earlier version's number.
        after: the later version's number.
        queries: how many of the newest distinct logged queries are decided by both.

    Raises:
        UnknownVersion: there is none of such a number.
    """
    old, new = load(conn, before), load(conn, after)
    changed, of = [], 0
    if old.encoder == new.encoder:
        texts, X = logged_queries(conn, encoder=old.encoder, limit=queries)
        changed, of = [asdict(change) for change in changed_decisions(old, new, texts, X)], len(texts)
    shown: dict[str, Any] = json_value(asdict(compare(old, new)))
    votes = followed_votes(conn, old, new, until=read_version(conn, after).watermark)
    return {
        **shown,
        "changed_queries": {"total": len(changed), "of": of, "queries": changed},
        "votes": json_value(votes),
    }


@router.get("/versions")
async def get_versions(request: Request, after: After = None, limit: Limit = 50) -> Response:
    """List versions, newest first."""
    return await state_of(request).show_list(
        lambda conn: list_versions(conn, after=after, limit=limit + 1),
        limit=limit,
        id_of=lambda r: r.number,
        form=version_json,
    )


@router.get("/versions/{number}")
async def get_version(request: Request, number: Number) -> Response:
    """Return one version: its report and how it differs from its parent."""
    return await state_of(request).show(lambda conn: version_with_difference(conn, number))


@router.post("/versions/{number}/activate", openapi_extra=body_of(SwitchRequest))
async def activate_version(request: Request, number: Number) -> dict[str, Any]:
    """Let a version serve; every server process follows within a second."""
    state = state_of(request)
    wanted, _ = await parse_body(request, SwitchRequest, limit=state.settings.max_body_bytes)
    activation = await state.changes.ask(
        lambda conn: activate(
            conn, number, kind="publish", actor=wanted.actor, reason=wanted.reason, if_seq=wanted.if_seq
        )
    )
    return activation_json(activation)


@router.post("/rollback", openapi_extra=body_of(RollbackRequest))
async def roll_back(request: Request) -> dict[str, Any]:
    """Go back to the version that served before, or to one that is named; every server process follows at once."""
    state = state_of(request)
    wanted, _ = await parse_body(request, RollbackRequest, limit=state.settings.max_body_bytes)
    activation = await state.changes.ask(
        lambda conn: rollback(conn, to=wanted.to, actor=wanted.actor, reason=wanted.reason, if_seq=wanted.if_seq)
    )
    return activation_json(activation)


@router.get("/active")
async def get_active(
    request: Request, at: Annotated[AwareDatetime | None, Query(description="A moment; missing: now.")] = None
) -> Response:
    """Return what serves now, or what served at a moment."""
    moment: datetime | None = at

    def read(conn: Connection) -> dict[str, Any]:
        found = active_json(conn, at=moment)
        if found is None:
            raise ApiError(404, "nothing_active", "No version was active then.")
        return found

    return await state_of(request).show(read)


@router.get("/activations")
async def get_activations(
    request: Request, after: Annotated[int | None, Query(ge=0, lt=2**62)] = None, limit: Limit = 100
) -> Response:
    """List the history, newest first: which version served from when on, who said so and why."""
    return await state_of(request).show_list(
        lambda conn: history(conn, after=after, limit=limit + 1, order="desc"),
        limit=limit,
        id_of=lambda r: r.seq,
        form=activation_json,
    )
