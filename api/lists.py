"""Lists as all calls answer them, and rows as JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


def json_value(value: object) -> Any:
    """Return a database value as JSON has it: ids and times as text, bytes as their number, dataclasses as objects."""
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


def json_row(row: Mapping[Any, Any], *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return a row as a JSON object; hashes of payloads and ``without`` are left out."""
    hidden = {"payload_sha256", *without}
    return {str(key): json_value(value) for key, value in row.items() if key not in hidden}


def json_list(rows: Sequence[Any], *, limit: int, id_of: Callable[[Any], object], form: Callable[[Any], Any]) -> Any:
    """Return the list object; ``rows`` holds one more than ``limit`` when there is more."""
    shown = rows[:limit]
    return {
        "object": "list",
        "data": [form(row) for row in shown],
        "first_id": json_value(id_of(shown[0])) if shown else None,
        "last_id": json_value(id_of(shown[-1])) if shown else None,
        "has_more": len(rows) > limit,
    }
