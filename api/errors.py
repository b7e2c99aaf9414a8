"""Errors as answers: one table from domain errors to status codes, one shape (RFC 9457), never an echo of the input."""

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from router.artifact import DamagedArtifact
from router.decide import UnknownRoute
from router.registry import (
    NeverActive,
    NothingToRollBack,
    NotShadowed,
    Pinned,
    RefusedVersion,
    StaleActivation,
    UnknownVersion,
)
from router.rollout import NothingOnTrial, NotPinned
from telemetry.database import DatabaseUnavailable
from telemetry.golden import NotGolden, UnknownGolden

PROBLEM = "application/problem+json"
RETRY_SECONDS = "1"


class FieldProblem(BaseModel):
    """One field that is not as it must be."""

    where: str
    problem: str


class Problem(BaseModel):
    """What every error answers (RFC 9457): ``code`` is for programs, ``detail`` for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[FieldProblem] | None = None


ERROR_ANSWERS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "An error: one sentence in detail, and where and why for each wrong field.",
        "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


class ApiError(Exception):
    """An error with its status and code; the message is what the client reads."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class Overloaded(Exception):
    """More events are waiting than can be held; send this one again in a second."""


class TooMuchAtOnce(Overloaded):
    """More is being sent at once than can be held; send this again in a second."""


class TooSlow(Exception):
    """The request did not come whole within a minute; send it again, or send less at once."""


class DatabaseBusy(Exception):
    """More is asked of the database at once than this server can do; try again in a second."""


class NotReady(Exception):
    """No router version is loaded yet; try again in a moment."""


STATUS: dict[type[Exception], tuple[int, str]] = {
    Overloaded: (429, "overloaded"),
    TooSlow: (408, "too_slow"),
    NotReady: (503, "not_ready"),
    DatabaseUnavailable: (503, "database_unavailable"),
    OperationalError: (503, "database_unavailable"),
    InterfaceError: (503, "database_unavailable"),
    DatabaseBusy: (503, "database_busy"),
    PoolTimeout: (503, "database_busy"),
    UnknownRoute: (422, "unknown_route"),
    UnknownVersion: (404, "unknown_version"),
    RefusedVersion: (409, "refused_version"),
    NeverActive: (409, "never_active"),
    NothingToRollBack: (409, "nothing_to_roll_back"),
    NotShadowed: (409, "not_shadowed"),
    Pinned: (409, "pinned"),
    NotPinned: (409, "not_pinned"),
    NothingOnTrial: (409, "nothing_on_trial"),
    UnknownGolden: (404, "unknown_golden"),
    NotGolden: (422, "not_golden"),
    StaleActivation: (409, "stale_activation"),
    DamagedArtifact: (409, "damaged_version"),
}
_SENTENCES = {
    "database_unavailable": str(DatabaseUnavailable.__doc__),
    "database_busy": str(DatabaseBusy.__doc__),
}
_TITLES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "wrong_type"}


def problem(status: int, code: str, detail: str, *, errors: list[dict[str, Any]] | None = None) -> JSONResponse:
    """Return an error answer. 429 and 503 say when to try again."""
    body: dict[str, Any] = {"type": "about:blank", "title": code.replace("_", " "), "status": status, "code": code}
    body["detail"] = detail
    if errors is not None:
        body["errors"] = errors
    headers = {"Retry-After": RETRY_SECONDS} if status in (429, 503) else None
    return JSONResponse(body, status_code=status, media_type=PROBLEM, headers=headers)


def validation_errors(error: ValidationError | RequestValidationError) -> list[dict[str, str]]:
    """Return where and why, without what was sent: not even the name of an unknown key."""
    found = []
    for entry in error.errors()[:20]:
        parts = [str(part) for part in entry["loc"]]
        if entry["type"] == "extra_forbidden" and parts:
            parts[-1] = "(unknown key)"
        found.append({"where": ".".join(parts), "problem": _message(entry["type"], entry["msg"])})
    return found


def _message(kind: str, message: str) -> str:
    # Parsers quote a character of what they were given; their kind says enough.
    return kind.replace("_", " ") if "found `" in message or kind in ("json_invalid",) else message


def add_error_handlers(app: FastAPI) -> None:
    """Give every error the one shape."""
    for kind in STATUS:
        app.add_exception_handler(kind, _domain_error)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(ValidationError, _invalid)
    app.add_exception_handler(RequestValidationError, _invalid)  # of a path or a query string
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


async def answer_to(request: Request, error: Exception) -> Response:
    """Return the answer to an error that is expected; any other is raised again."""
    handlers = request.app.exception_handlers
    kind = next((kind for kind in type(error).__mro__ if kind in handlers and kind is not Exception), None)
    if kind is None:
        raise error
    answer: Response = await handlers[kind](request, error)
    return answer


async def _domain_error(_request: Request, error: Exception) -> Response:
    status, code = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    detail = _SENTENCES.get(code) or str(error) or str(type(error).__doc__)
    return problem(status, code, detail)


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101  # registered for this class
    return problem(error.status, error.code, error.detail)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError | RequestValidationError)  # noqa: S101  # registered for these
    detail = "The request is not valid; see errors for where and why."
    return problem(422, "invalid_request", detail, errors=validation_errors(error))


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this class
    code = _TITLES.get(error.status_code, "http_error")
    answer = problem(error.status_code, code, f"{code.replace('_', ' ').capitalize()}; see /docs for what there is.")
    answer.headers.update(error.headers or {})
    return answer


async def _unexpected(request: Request, error: Exception) -> Response:
    structlog.get_logger().error("request_failed", path=request.scope.get("path"), error=type(error).__name__)
    return problem(500, "internal_error", "Something went wrong here; the server's log says what.")
