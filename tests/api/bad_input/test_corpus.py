"""Every bad request of the corpus on the real server and database: 4xx in the one shape, and no row more."""

import json
import re

import pytest

from tests.api.bad_input.corpus import (
    BATCH,
    CALLS,
    CANARY,
    EVENT,
    KEY,
    UNICODE,
    random_ids,
    written,
    wrong_bodies,
    wrong_fields,
)

JSON = {"content-type": "application/json"}
NAMES = [f"{call.method} {call.path.replace(KEY, 'ID')}" for call in (*CALLS, BATCH)]


def fault_of(answer):
    """What is wrong with an answer to a bad request; None when nothing is."""
    if not 400 <= answer.status_code < 500:
        return f"status {answer.status_code}"
    if CANARY in answer.text:
        return "repeats what was sent"
    if answer.headers["content-type"] != "application/problem+json":
        return f"type {answer.headers['content-type']}"
    body = answer.json()
    if not {"type", "title", "status", "code", "detail"} <= set(body) or body["status"] != answer.status_code:
        return f"keys {sorted(body)}"
    if not re.fullmatch(r"[A-Z][^\n]*\.", body["detail"]):
        return f"no sentence: {body['detail']}"
    if body["code"] == "invalid_request" and not all(error["problem"] for error in body.get("errors", ())):
        return "does not say why"
    return None


def faults(client, requests):
    """Send (name, method, path, body, headers) and return what was wrong with which answer."""
    found = {}
    for name, method, path, body, headers in requests:
        answer = client.request(method, path, content=body, headers=headers)
        if fault := fault_of(answer):
            found[name] = f"{fault}: {answer.text[:200]}"
    return found


@pytest.mark.parametrize("call", [*CALLS, BATCH], ids=NAMES)
def test_no_call_takes_a_body_that_is_not_its_own(client, rows, call):
    before = rows()
    requests = [(name, call.method, call.path, body, {**JSON, **headers}) for name, body, headers in wrong_bodies(call)]
    assert faults(client, requests) == {}
    assert rows() == before


@pytest.mark.parametrize("call", CALLS, ids=NAMES[:-1])
def test_no_call_takes_a_wrong_value_or_an_unknown_key(client, rows, call):
    before = rows()
    requests = [(name, call.method, call.path, written(body).encode(), JSON) for name, body in wrong_fields(call)]
    assert faults(client, requests) == {}
    assert rows() == before


def bad_items():
    """The wrong events in an order that mixes the fields, without those that are huge."""
    cases = [(name, written(body)) for name, body in wrong_fields(EVENT)]
    return sorted((case for case in cases if len(case[1]) < 20_000), key=lambda c: hash(c[1]))


def test_a_wrong_item_of_a_batch_is_refused_alone(client, rows):
    items, good = bad_items(), written(EVENT.body)
    for start in range(0, len(items), 99):
        bad = items[start : start + 99]
        place = len(bad) // 2
        before = rows()
        body = ",".join([*(t for _, t in bad[:place]), good, *(t for _, t in bad[place:])])
        answer = client.post(BATCH.path, content=f'{{"data":[{body}]}}'.encode(), headers=JSON)
        results = answer.json()["results"]
        taken = [r["index"] for r in results if r["status"] < 400]
        assert (answer.status_code, taken) == (207, [place]), [items[start + i - (i > place)][0] for i in taken]
        assert CANARY not in answer.text
        assert all(r["message"] for r in results if r["status"] >= 400)
        assert {t: n - before[t] for t, n in rows().items() if n > before[t]} == {
            "inference": 1,
            "inference_payload": 1,
            "segment": 2,
        }


def test_as_the_fiftieth_of_a_hundred_it_harms_none_of_the_others(client):
    good = written(EVENT.body)
    for name, item in bad_items()[::40]:
        body = ",".join([good] * 49 + [item] + [good] * 50)
        answer = client.post(BATCH.path, content=f'{{"data":[{body}]}}'.encode(), headers=JSON)
        counts = (answer.status_code, answer.json()["accepted"], answer.json()["rejected"])
        assert (name, *counts) == (name, 207, 99, 1)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "latin-1"])
def test_a_batch_in_another_encoding_than_utf_8_is_refused_as_a_single_event_is(client, rows, encoding):
    before, good = rows(), {**EVENT.body, "query": "où est mon colis"}
    for path, body in (
        (EVENT.path, good),
        (BATCH.path, {"data": [good]}),
        (BATCH.path, {"data": [good, {"cost": -1}]}),
    ):
        content = json.dumps(body, ensure_ascii=False).encode(encoding)
        answer = client.post(path, content=content, headers=JSON)
        assert (path, answer.status_code) == (path, 422)
    assert rows() == before


def test_an_item_that_is_nested_too_deep_is_refused_however_deep(client, rows):
    before = rows()
    for depth in (50, 500, *range(880, 1_000), 2_000, 100_000):
        body = '{"data":[{"query":' + "[" * depth + "]" * depth + "}]}"
        answer = client.post(BATCH.path, content=body.encode(), headers=JSON)
        assert (depth, answer.status_code) == (depth, 422)
    assert rows() == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"data": []}, 422),
        ({"data": {}}, 422),
        ({"data": [{}], CANARY: 1}, 422),
        ({"data": [{}] * 1_001}, 413),
        ({"data": [EVENT.body] * 1_001}, 413),
        ([EVENT.body], 422),
    ],
    ids=range(7),
)
def test_a_batch_of_another_form_or_size_is_refused(client, rows, body, status):
    before = rows()
    answer = client.post(BATCH.path, json=body)
    assert (answer.status_code, fault_of(answer)) == (status, None)
    assert rows() == before


@pytest.mark.parametrize(
    "item", [None, 7, "x", [], {}, {CANARY: 1}, {"inference_id": KEY, "query": 1}], ids=lambda i: json.dumps(i)[:12]
)
def test_a_batch_of_things_that_are_no_events_is_refused_item_by_item(client, rows, item):
    before = rows()
    answer = client.post(BATCH.path, json={"data": [item] * 3})
    assert (answer.status_code, answer.json()["rejected"]) == (422, 3)
    assert CANARY not in answer.text
    assert rows() == before


def test_no_path_takes_an_id_that_is_none(client, rows):
    before = rows()
    judgement, reason = json.dumps({"value": "up"}).encode(), json.dumps({"reason": "a test"}).encode()
    requests = [
        (f"{method} {path % key[:40]}", method, path % key, body, JSON)
        for key in random_ids()
        for method, path, body in (
            ("GET", "/v1/inferences/%s", b""),
            ("GET", "/v1/feedback/%s", b""),
            ("PUT", "/v1/feedback/%s", judgement),
            ("DELETE", "/v1/feedback/%s", b""),
            ("GET", "/v1/learner/runs/%s", b""),
            ("GET", "/v1/router/versions/%s", b""),
            ("POST", "/v1/router/versions/%s/activate", reason),
        )
    ]
    assert faults(client, requests) == {}
    assert rows() == before


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("inferences", "limit after"),
        ("feedback", "limit after resolution"),
        ("dead-letters", "limit after"),
        ("learner/runs", "limit after"),
        ("failures", "limit after run_id"),
        ("router/versions", "limit after"),
        ("router/activations", "limit after"),
        ("router/active", "at"),
    ],
)
def test_no_list_takes_a_wrong_parameter(client, path, parameters):
    values = (*("", "x", CANARY, "-1", "1.5", "1e9", "9" * 400, "NaN", "%00", "%ED%A0%80", "%FF", "' or 1=1 --", "[]"),)
    requests = [
        (f"{name}={value[:20]}", "GET", f"/v1/{path}?{name}={value}", b"", {})
        for name in parameters.split()
        for value in values
    ]
    assert faults(client, requests) == {}


@pytest.mark.parametrize(
    "query", ["session_id=%00", "session_id=%ED%A0%80", "session_id=" + "x" * 5_000, "session_id=%FF"]
)
def test_a_session_that_cannot_be_has_no_inferences(client, query):
    answer = client.get(f"/v1/inferences?{query}")
    assert (answer.status_code, answer.json()["data"]) == (200, [])


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "1970-01-01T00:00:00Z"])
def test_any_moment_may_be_asked_for(client, at):
    assert client.get(f"/v1/router/active?at={at}").status_code in (200, 404)


def test_other_methods_and_paths_are_told_so(client, rows):
    before = rows()
    for call in (*CALLS, BATCH):
        for method in ("PATCH", "TRACE", "OPTIONS", "HEAD"):
            answer = client.request(method, call.path)
            assert (answer.status_code, bool(answer.headers.get("allow"))) == (405, True), (method, call.path)
            assert method == "HEAD" or fault_of(answer) is None
    for path in (
        "/",
        "/v1",
        "/v1/",
        "/v1/route/",
        "/v1//route",
        "/etc/passwd",
        f"/{CANARY}",
        "/%2e%2e/x",
        "/v1/route%00",
    ):
        assert fault_of(client.get(path)) is None, path
    assert rows() == before


def test_ids_as_long_as_may_be_are_stored_whatever_their_letters(client):
    ids = ("client_request_id", "response_id", "trace_id", "span_id", "external_call_id", "session_id", "end_user")
    longest = {name: UNICODE[i * 256 : (i + 1) * 256] for i, name in enumerate(ids)}
    logged = client.post("/v1/inferences", json={**EVENT.body, **longest})
    assert logged.status_code == 201, logged.text
    target = {"trace_id": longest["trace_id"], "span_id": longest["span_id"]}
    judged = client.post("/v1/feedback", json={**target, "value": "up"})
    assert (judged.status_code, judged.json()["resolution"]) == (201, "resolved")


@pytest.mark.parametrize(
    "query",
    ["\u202e\u0301" * 1_000, "e" + "\u0301" * 1_000, "\x1b[31m", "=cmd|' /C calc'!A0", " ", "\u200b", "\U0010ffff"],
)
def test_odd_texts_are_only_texts(client, query):
    answer = client.post("/v1/route", json={"query": query, "log": False})
    assert (answer.status_code, answer.json()["segments"][0]["start"]) == (200, 0)
