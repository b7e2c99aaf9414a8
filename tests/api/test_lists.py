"""What the database gives, as JSON."""

import json
from collections import UserDict
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest

from api.lists import json_bytes, json_value


@dataclass(frozen=True)
class Point:
    x: float
    when: datetime


NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        {"id": UUID(int=7), "at": NOON, "later": NOON.replace(microsecond=120), "bytes": b"abc", "none": None},
        UserDict({"nested": [UserDict({"a": (1, True, 0.1, "é\u2028")})]}),
        [Point(0.5, NOON), {"point": Point(1e300, NOON)}],
        {"large": [2**53, 2**63, 2**64, 10**30], "id": UUID(int=1), "bytes": b"x"},
    ],
)
def test_a_value_is_written_as_it_is_shown_elsewhere(value):
    assert json.loads(json_bytes(value)) == json.loads(json.dumps(json_value(value)))
