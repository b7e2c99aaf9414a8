"""Request bodies: read up to a limit, checked for type and encoding, parsed strictly from the raw bytes."""

from typing import Any, TypeVar

from fastapi import Request

from api.admission import caller_of
from api.errors import ApiError
from api.schemas import Strict
from api.shedding import work_begins
from api.unfinished import why_cut_short

Body = TypeVar("Body", bound=Strict)


async def read_body(request: Request, *, limit: int) -> bytes:
    """Return the raw body, of at most ``limit`` bytes or what the caller's key allows.

    Raises:
        ApiError: 415 for another type or a compressed body, 413 for more, 400 for less than were
            announced.
        TooSlow: it did not come whole in time.
        TooMuchAtOnce: all bodies that have not come whole are too much together, and this is the largest.
    """
    limit = min(limit, caller_of(request).body_bytes or limit)
    heads = dict(request.scope["headers"])
    kind = heads.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise ApiError(415, "wrong_type", "Send the body as application/json.")
    if heads.get(b"content-encoding", b"identity").lower() != b"identity":
        raise ApiError(415, "wrong_encoding", "Send the body uncompressed.")
    declared = heads.get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > limit:
        raise too_large(limit)
    chunks, size, more = [], 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":  # nobody reads this answer, but it is counted
            raise ApiError(400, "incomplete_body", "The body ended before its announced length.")
        chunks.append(message.get("body", b""))
        size, more = size + len(chunks[-1]), message.get("more_body", False)
        if size > limit:
            raise too_large(limit)
        if more and (why := why_cut_short(request.scope)):
            raise why(why.__doc__)
    return b"".join(chunks)


def too_large(limit: int) -> ApiError:
    """The answer to a body over the limit."""
    return ApiError(413, "too_large", f"The body is larger than {limit:,} bytes; send less at once.")


async def parse_body(request: Request, model: type[Body], *, limit: int) -> tuple[Body, int]:
    """Return the parsed body and its size in bytes; an empty body counts as ``{}``.

    Raises:
        ApiError: as ``read_body``.
        ValidationError: it is not what ``model`` wants.
    """
    raw = await read_body(request, limit=limit)
    work_begins(request.scope)
    return model.model_validate_json(raw or b"{}"), len(raw)


def body_of(model: type[Strict]) -> dict[str, Any]:
    """Return the OpenAPI entry of a request body that the call parses by itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content: dict[str, Any] = {"schema": schema}
    example = (model.model_config.get("json_schema_extra") or {}).get("example")  # type: ignore[union-attr]
    if example:
        content["example"] = example
    return {"requestBody": {"required": True, "content": {"application/json": content}}}
