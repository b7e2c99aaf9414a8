"""Lists as all calls answer them, and rows as JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from pydantic_core import to_json


def json_value(value: object) -> Any:
    """Return a database value as JSON has it: ids and times as text, bytes as their number, dataclasses as objects."""
    if value is None or isinstance(value, str | int | float):  # most are, and to ask the rest first takes long
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return json_value(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): json_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(v) for v in value]
    return value


def json_bytes(value: object) -> bytes:
    """Return a value as JSON, its parts as ``json_value`` has them."""
    try:
        return orjson.dumps(value, default=json_value)
    except TypeError:  # it knows no number of more than 64 bits
        return to_json(json_value(value))


def json_row(row: Mapping[Any, Any], *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return a row as an object, its values as they are; hashes of payloads and ``without`` are left out."""
    hidden = {"payload_sha256", *without}
    return {str(key): value for key, value in row.items() if key not in hidden}


def json_list(rows: Sequence[Any], *, limit: int, id_of: Callable[[Any], object], form: Callable[[Any], Any]) -> Any:
    """Return the list object; ``rows`` holds one more than ``limit`` when there is more."""
    shown = rows[:limit]
    return {
        "object": "list",
        "data": [form(row) for row in shown],
        "first_id": id_of(shown[0]) if shown else None,
        "last_id": id_of(shown[-1]) if shown else None,
        "has_more": len(rows) > limit,
    }
