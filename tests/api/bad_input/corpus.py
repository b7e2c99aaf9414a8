"""The corpus of bad requests: bodies that no call takes, and wrong values for every field of every call.

``CANARY`` stands in what is sent; no answer may repeat it.
"""

import gzip
import json
import random
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

CANARY = "zq7canary"
UNICODE = "".join(random.Random(7).choices([chr(c) for c in range(0x1F300, 0x1F600)], k=20_000))  # does not compress
KEY = "01936f5e-7a3c-7d2e-8f10-3b8f0c9d1e2f"


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """JSON text that ``json.dumps`` would not write."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call with a body that it takes, apart from ``broken`` fields."""

    method: str
    path: str
    body: dict[str, Any]
    fields: dict[str, str] = field(default_factory=dict)


_IDS = dict.fromkeys(("client_request_id", "response_id", "external_call_id"), "id")
_COUNTS = dict.fromkeys(("input_tokens", "output_tokens"), "count")
_AMOUNTS = dict.fromkeys(("cost", "duration_ms"), "amount")
_EVENT = {
    **_IDS,
    **_COUNTS,
    **_AMOUNTS,
    **dict.fromkeys(("session_id", "end_user", "trace_id"), "id"),
    **dict.fromkeys(("request_model", "response_model", "finish_reason", "error_type"), "name"),
    **dict.fromkeys(("started_at", "ended_at", "occurred_at", "client_sent_at"), "time"),
    "inference_id": "uuid",
    "query": "query",
    "answer": "long_text",
    "reasoning_output_tokens": "count",
    "ttft_ms": "amount",
    **{f"decision.{name}": "name" for name in ("route", "policy", "cause")},
    **{f"decision.{name}": "chance" for name in ("score", "propensity")},
    "decision": "object",
    "decision.margin": "margin",
    "decision.router_version": "number",
    "decision.explored": "bool",
    "decision.candidates": "list",
    "decision.candidates.0.route": "name",
    "decision.candidates.0.probability": "chance",
    "decision.candidates.0.utility": "utility",
    "decision.candidates.0.similarity": "similarity",
    "segments": "list",
    "segments.0.segment_index": "index",
    **{f"segments.0.{name}": "offset" for name in ("start", "end")},
    "segments.0.text": "query",
    **{f"segments.0.{name}": "name" for name in ("route", "model", "finish_reason")},
    **{f"segments.0.{name}": kind for name, kind in (_COUNTS | _AMOUNTS).items()},
}
EVENT = Call(
    method="POST",
    path="/v1/inferences",
    body={
        "query": "where is my parcel",
        "decision": {
            "route": "delivery",
            "candidates": [{"route": "delivery", "probability": 0.9, "utility": 0.1, "similarity": 0.5}],
        },
        "segments": [{"segment_index": 0}, {"segment_index": 1}],
    },
    fields=_EVENT,
)
_JUDGEMENT = {"value": "thumb", "correction": "name", "comment": "comment", "segment_index": "index"}
_SWITCH = {"reason": "reason", "actor": "name", "if_seq": "number"}
CALLS = (
    EVENT,
    Call(
        method="POST",
        path="/v1/route",
        body={"query": "where is my parcel", "metadata": {}},
        fields={
            "query": "query",
            "session_id": "id",
            "metadata": "object",
            "metadata.route": "name",
            "metadata.client_request_id": "id",
            "metadata.end_user": "id",
            "explore": "bool",
            "log": "bool",
        },
    ),
    Call(
        method="POST",
        path="/v1/feedback",
        body={"inference_id": KEY, "value": "down"},
        fields={
            **_JUDGEMENT,
            "feedback_id": "uuid",
            "inference_id": "uuid",
            "submitter": "id",
            "annotator_kind": "annotator",
            "occurred_at": "time",
        },
    ),
    Call(method="POST", path="/v1/feedback-tokens", body={"inference_id": KEY}, fields={"inference_id": "uuid"}),
    Call(method="PUT", path=f"/v1/feedback/{KEY}", body={"value": "down"}, fields=_JUDGEMENT),
    Call(method="POST", path="/v1/router/versions/1/activate", body={"reason": "a test"}, fields=_SWITCH),
    Call(method="POST", path="/v1/router/rollback", body={"reason": "a test"}, fields={**_SWITCH, "to": "number"}),
    Call(method="POST", path="/v1/learner/runs", body={"force": False}, fields={"force": "bool"}),
)
BATCH = Call(method="POST", path="/v1/inferences:batch", body={"data": [EVENT.body]})

_TEXTS = (7, True, 1.5, [], {}, [CANARY], "nul\0", Raw(text='"\\ud800"'), Raw(text='"\\udfff\\ud800"'))
_NUMBERS = (
    *("5", "12 ", True, [], {}, -1, -(2**63), 10**30),
    *(Raw(text=text) for text in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 4_001, "9" * 5_000)),
)
_NOT_WHOLE = (1.5, Raw(text="1e2"), Raw(text="1.0"), 2**63, 2**64)
WRONG: dict[str, tuple[Any, ...]] = {
    "id": (*_TEXTS, "", "x" * 257, UNICODE[:257], CANARY * 100_000),
    "name": (*_TEXTS, "", "x" * 201, UNICODE[:201]),
    "query": (*_TEXTS, "", "x" * 100_001),
    "long_text": (*_TEXTS, "x" * 1_000_001),
    "comment": (*_TEXTS, "x" * 10_001),
    "reason": (*_TEXTS, "", "x" * 2_001),
    "thumb": (*_TEXTS, "", "UP", "thumbs_up", CANARY, 1),
    "annotator": (*_TEXTS, "", "human", "ROBOT", CANARY),
    "bool": ("true", "", 0, 1, [], {}, "no", 0.0),
    "object": ([], "", 7, True, CANARY, {CANARY: 1}),
    "list": ({}, "", 7, True, [None], [7], [[]], [CANARY], [{}] * 101, [{CANARY: 1}]),
    "count": (*_NUMBERS, *_NOT_WHOLE, 10**12 + 1),
    "offset": (*_NUMBERS, *_NOT_WHOLE, 2**31, 10**12),
    "index": (*_NUMBERS, *_NOT_WHOLE, 1_001, 32_768),
    "number": (*_NUMBERS, *_NOT_WHOLE, "1", CANARY),
    "amount": (*_NUMBERS, 1.1e12),
    "chance": (*_NUMBERS, 1.01, -0.01),
    "margin": (*(v for v in _NUMBERS if v != -1), 1.01, -1.01),
    "utility": (*(v for v in _NUMBERS if v != -1), 1e7),
    "similarity": (*(v for v in _NUMBERS if v != -1), 1.1, -1.1),
    "uuid": (
        *(*_TEXTS, "", "x", "../../etc/passwd", "' or 1=1 --", CANARY, CANARY * 100_000, f"{KEY}\0", f"{KEY}0"),
        *(KEY[:-1], "=cmd|' /C calc'!A0", "<script>alert(1)</script>", "\x1b[31m"),
    ),
    "time": (
        *(True, [], {}, "", CANARY, "now", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"),
        *("2026-01-01T25:00:00Z", "2026-02-30T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00"),
        *("2036-11-24T00:00:00Z", "2150-01-01T00:00:00Z", "1850-01-01T00:00:00Z", "2026-01-01T00:00:00+99:00"),
        *(1_700_000_000, 1_700_000_000_000, 1.7e9, -1, 10**30, "10000-01-01T00:00:00Z", "\0", "0"),
        *(Raw(text=text) for text in ("NaN", "1e400", '"\\ud800"')),
    ),
}


def written(value: object) -> str:
    """JSON text of ``value``, with ``Raw`` as it stands."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


def spoiled(body: dict[str, Any], where: str, value: object) -> dict[str, Any]:
    """``body`` with ``value`` at the dotted path ``where``, ids fresh, and no list longer than needed."""
    copy = json.loads(json.dumps(body))
    *way, last = where.split(".")
    inner = copy
    for step in way:
        inner = inner[int(step) if isinstance(inner, list) else step]
    inner[last] = value
    return copy


def wrong_fields(call: Call) -> list[tuple[str, dict[str, Any]]]:
    """Every field with every wrong value of its kind, then keys that nobody knows, as (name, body)."""
    cases = [
        (f"{where}={written(value)[:40]}", spoiled(call.body, where, value))
        for where, kind in call.fields.items()
        for value in WRONG[kind]
    ]
    unknown = (CANARY, "embedding", "__proto__", "", "Query", "query\0", "=1+1", "<b>", "\u202e", "x" * 10_000)
    cases += [(f"unknown key {key[:20]!r}", {**call.body, key: [float(i) for i in range(3)]}) for key in unknown]
    return cases


def wrong_bodies(call: Call) -> list[tuple[str, bytes, dict[str, str]]]:
    """Bodies that are no JSON object of this call, as (name, body, headers)."""
    good = json.dumps(call.body)
    plain = {
        "white": " \n\t",
        **{f"JSON {text}": text for text in ("null", "[]", '"x"', "1", "true", "NaN", "[1,2", "{", "}", "{]", '{"a"}')},
        "trailing comma": good[:-1] + ",}",
        "trailing data": good + good,
        "trailing letters": good + CANARY,
        "single quotes": good.replace('"', "'"),
        "cut": good[:-1],
        "comment": good + " // no",
        "control character": good.replace(":", ":\x01"),
        "deep lists": "[" * 100_000,
        "deep closed lists": "[" * 100_000 + "]" * 100_000,
        "deep objects": '{"query":' * 100_000,
        "a list within": '{"query":' + "[" * 5_000 + "]" * 5_000 + "}",
        "a million items": "[" + "1," * 999_999 + "1]",
        "a million items within": '{"query":[' + "1," * 999_999 + "1]}",
        "a huge number": '{"query":' + "9" * 1_000_000 + "}",
    }
    cases = [(name, text.encode(), {}) for name, text in plain.items()]
    cases += [
        ("invalid UTF-8", good.encode().replace(b'":', b"\xff\xfe"), {}),
        ("overlong UTF-8", b'{"query":"\xc0\xaf"}', {}),
        ("a surrogate in UTF-8", b'{"query":"\xed\xa0\x80"}', {}),
        ("random bytes", random.Random(1).randbytes(1_000), {}),
        ("zeros", bytes(1_000), {}),
        ("gzip unannounced", gzip.compress(good.encode()), {}),
        ("too large", b" " * 5_000_001, {}),
    ]
    for encoding in ("gzip", "br", "deflate", "zstd", "gzip, gzip", CANARY):
        cases.append((f"encoding {encoding}", gzip.compress(b"0" * 10_000_000), {"content-encoding": encoding}))
    kinds = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml")
    for kind in (*kinds, "", "application", "application/jsonp", "*/*", CANARY):
        cases.append((f"type {kind}", good.encode(), {"content-type": kind}))
    return cases


def random_ids() -> list[str]:
    """Path segments that are ids of nothing: most of them are no ids at all."""
    return [
        *(
            str(uuid4()),
            "x",
            "0",
            "-1",
            "99999999999999999999",
            "99.0",
            "1e3",
            "NaN",
            "%00",
            "%F0%9F%98%80",
            "%ED%A0%80",
        ),
        *("%2e%2e%2f%2e%2e", "..%2f", "'%20or%201=1--", "%3Cscript%3E", CANARY, "a" * 5_000, "%", "%zz", "null"),
        *("{inference_id}", "%7B%7D", f"{KEY}%00", f"{KEY}%20", "%FF%FE", "\u0661".encode().hex()),
    ]
