"""API keys on the real server: scopes, answers, whose feedback it is, limits, and the last known list."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from api.admission import OPEN, scope_of
from api.app import create_app
from api.settings import read_settings
from telemetry.api_keys import SCOPES, create_key, revoke_key
from telemetry.database import create_engine
from tests.api.conftest import running

AWAY = "postgresql://nobody@127.0.0.1:9/none"
PROBLEM = "application/problem+json"
KEY = str(uuid4())
DECIDE = ("POST", "/v1/route", {"query": "where is my parcel", "log": False})
CALLS = {
    "decide": [DECIDE],
    "ingest": [("POST", "/v1/inferences", {}), ("POST", "/v1/inferences:batch", {})],
    "feedback": [
        ("POST", "/v1/feedback", {}),
        ("PUT", f"/v1/feedback/{KEY}", {}),
        ("DELETE", f"/v1/feedback/{KEY}", None),
    ],
    "read": [("GET", path, None) for path in ("/v1/inferences", "/v1/router/versions", "/v1/nothing", "/metrics")],
    "publish": [
        ("POST", "/v1/router/rollback", {}),
        ("POST", "/v1/router/versions/9/activate", {}),
        ("POST", "/v1/nothing", {}),
        ("POST", "/v1/routes", {}),
    ],
}


@pytest.fixture(scope="module")
def engine(module_url):
    engine = create_engine(module_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def make(engine):
    """Makes a key and returns it."""

    def make(name, *scopes, **more):
        with engine.begin() as conn:
            return create_key(conn, name=name, scopes=scopes, created_by="a test", **more)[1]

    return make


@pytest.fixture(scope="module")
def keys(make):
    """A key for each scope, which has that scope alone."""
    return {scope: make(f"only {scope}", scope) for scope in SCOPES}


@pytest.fixture(scope="module")
def client(keys, module_url, app_settings):
    with running(app_settings, module_url) as address, httpx.Client(base_url=address, timeout=20) as http:
        yield http


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def send(client, call, headers=None):
    method, path, body = call
    return client.request(method, path, json=body, headers=headers)


def refusal(answer):
    body = answer.json()
    assert answer.headers["content-type"] == PROBLEM
    assert (body["status"], body["detail"][-1]) == (answer.status_code, ".")
    return answer.status_code, body["code"]


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("scope", SCOPES)
def test_every_call_wants_its_own_scope_and_no_other_one_will_do(client, keys, scope):
    for call in CALLS[scope]:
        assert refusal(send(client, call)) == (401, "key_missing")
        for other in SCOPES:
            answer = send(client, call, bearer(keys[other]))
            if other == scope:
                assert answer.status_code not in (401, 403), (call, answer.text)
            else:
                assert refusal(answer) == (403, "scope_missing"), (call, other)
                assert scope in answer.json()["detail"]
                assert f'scope="{scope}"' in answer.headers["www-authenticate"]


def test_the_scope_of_every_call_that_there_is(module_url, app_settings):
    document = create_app(app_settings, database_url=module_url).openapi()
    calls = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    assert {path for method, path in calls if scope_of(method, path) is None} <= set(OPEN)
    assert {path for method, path in calls if method == "GET" and scope_of(method, path) != "read"} <= set(OPEN)
    writing = {(method, path): scope_of(method, path) for method, path in calls if method != "GET"}
    assert all(scope in SCOPES for scope in writing.values())
    assert {path for (_, path), scope in writing.items() if scope == "publish"} >= {
        "/v1/router/rollback",
        "/v1/learner/runs",
    }


def test_health_needs_no_key(client):
    assert {path: client.get(path).status_code for path in OPEN} == dict.fromkeys(OPEN, 200)


@pytest.mark.parametrize(
    "value",
    [
        "Bearer",
        "Bearer x",
        "Bearer tt__",
        "Bearer tt_0_0",
        "Basic YTpi",
        "Bearer \xe9",
        "Bearer " + "_" * 5000,
    ],
)
def test_a_wrong_key_is_refused_in_a_sentence_without_an_echo(client, value):
    answer = client.request(*DECIDE[:2], json=DECIDE[2], headers={"Authorization": value.encode("latin-1")})
    assert refusal(answer)[0] == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="trimtab"')
    assert len(value) < 10 or value[7:] not in answer.text


def test_a_key_whose_secret_or_id_is_off_by_one_character_is_refused(client, keys):
    key = keys["decide"]
    for wrong in (
        key[:-1],
        key[:-1] + ("a" if key[-1] != "a" else "b"),
        key[:4] + ("0" if key[4] != "0" else "1") + key[5:],
    ):
        assert refusal(send(client, DECIDE, bearer(wrong))) == (401, "key_wrong")


def test_an_expired_key_says_so(client, make):
    key = make("short", "decide", expires_at=datetime.now(UTC) + timedelta(seconds=2.5))
    wait_until(lambda: send(client, DECIDE, bearer(key)).status_code == 200)
    wait_until(lambda: send(client, DECIDE, bearer(key)).status_code == 401)
    assert "has expired" in send(client, DECIDE, bearer(key)).json()["detail"]


def test_a_revoked_key_says_so(client, make, engine):
    key = make("revoked", "decide")
    wait_until(lambda: send(client, DECIDE, bearer(key)).status_code == 200)
    with engine.begin() as conn:
        revoke_key(conn, "revoked")
    wait_until(lambda: send(client, DECIDE, bearer(key)).status_code == 401)
    assert "was revoked" in send(client, DECIDE, bearer(key)).json()["detail"]


def test_whose_feedback_it_is_comes_from_the_key_and_stays_through_a_revision(client, make, keys, engine):
    vote = {"feedback_id": str(uuid4()), "inference_id": str(uuid4()), "value": "up"}
    pretended = client.post("/v1/feedback", json={**vote, "principal": "somebody"}, headers=bearer(keys["feedback"]))
    assert pretended.status_code == 422
    assert client.post("/v1/feedback", json=vote, headers=bearer(keys["feedback"])).status_code == 202
    second = make("second judge", "feedback")
    path = f"/v1/feedback/{vote['feedback_id']}"
    wait_until(lambda: client.put(path, json={"value": "down"}, headers=bearer(second)).status_code == 200)
    with engine.connect() as conn:
        found = conn.execute(text("select principal from feedback")).scalars().all()
    assert found == ["only feedback"] * 2


def test_nothing_of_a_refused_request_is_read_or_stored(client, engine):
    def rows():
        with engine.connect() as conn:
            return conn.execute(text("select (select count(*) from inference), (select count(*) from feedback)")).one()

    before = rows()
    event = {"query": "x", "decision": {"route": "billing"}}
    assert client.post("/v1/inferences", json=event).status_code == 401
    assert client.post("/v1/feedback", json={"inference_id": KEY, "value": "up"}).status_code == 401
    assert rows() == before


def test_one_key_may_send_less_at_once_and_less_often_and_is_told_when_to_come_again(client, make):
    slow = make("slow", "decide", limits={"rate": 2.0, "body_bytes": 200})
    wait_until(lambda: send(client, DECIDE, bearer(slow)).status_code == 200)
    answers = [send(client, DECIDE, bearer(slow)) for _ in range(5)]
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert refusal(refused) == (429, "rate_limited")
    assert (refused.headers["retry-after"], "2 requests a second" in refused.json()["detail"]) == ("1", True)
    time.sleep(1.0)
    large = ("POST", "/v1/route", {"query": "x" * 200})
    answer = send(client, large, bearer(slow))
    assert (refusal(answer), "200 bytes" in answer.json()["detail"]) == ((413, "too_large"), True)


def test_one_key_may_run_only_so_many_requests_at_once_and_others_go_on(client, make, keys):
    one = make("one at a time", "decide", "read", limits={"concurrency": 1})
    wait_until(lambda: send(client, DECIDE, bearer(one)).status_code == 200)
    address = client.base_url
    time.sleep(0.3)  # until the last one has ended on the server's side too
    with socket.create_connection((address.host, address.port)) as slow:
        head = (
            f"POST /v1/route HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {one}\r\nContent-Length: 50\r\n\r\n"
        )
        slow.sendall(head.encode())  # and the body does not come
        time.sleep(0.5)  # asking meanwhile would take the one place from it
        assert refusal(send(client, DECIDE, bearer(one))) == (429, "too_many_at_once")
        assert send(client, DECIDE, bearer(keys["decide"])).status_code == 200
    wait_until(lambda: send(client, DECIDE, bearer(one)).status_code == 200)


def test_a_revoked_key_is_refused_in_time_although_others_hold_everything_to_read_with(client, make, keys, engine):
    victim = make("revoked among readers", "decide")
    wait_until(lambda: send(client, DECIDE, bearer(victim)).status_code == 200)
    done, most = threading.Event(), httpx.Limits(max_connections=None)

    def read(http, after):
        time.sleep(after)  # not all at a time: they would also give up at a time, and leave everything free
        while not done.is_set():
            if http.get("/v1/inferences", headers=bearer(keys["read"])).status_code != 200:
                time.sleep(0.2)

    with (
        httpx.Client(base_url=client.base_url, timeout=60, limits=most) as http,
        ThreadPoolExecutor(200) as readers,
        engine.connect() as locking,
    ):
        locking.execute(text("lock table inference in access exclusive mode"))
        try:
            reading = [readers.submit(read, http, 5 * each / 200) for each in range(200)]
            time.sleep(8)
            with engine.begin() as conn:
                revoke_key(conn, "revoked among readers")
            wait_until(lambda: send(client, DECIDE, bearer(victim)).status_code == 401, seconds=10)
        finally:
            done.set()
            locking.rollback()
    assert [each.result() for each in reading] == [None] * 200


def test_a_limit_for_all_keys_is_a_setting(module_url, keys, home, fleet_file):
    settings = read_settings(home=home, fleet=fleet_file, key_rate=1, key_concurrency=2)
    with running(settings, module_url) as address, httpx.Client(base_url=address, timeout=20) as http:
        answers = [send(http, DECIDE, bearer(keys["decide"])).status_code for _ in range(3)]
    assert sorted(answers) == [200, 429, 429]


def test_the_last_known_keys_work_while_the_database_is_away(module_url, keys, home, fleet_file, app_settings):
    with running(app_settings, module_url):
        pass
    kept = home / "cache" / "api-keys.json"
    assert kept.stat().st_mode & 0o077 == 0
    assert not [key for key in keys.values() if key.split("_", 2)[2] in kept.read_text()]
    with running(app_settings, AWAY) as address, httpx.Client(base_url=address, timeout=20) as http:
        assert send(http, DECIDE, bearer(keys["decide"])).status_code == 200
        assert send(http, DECIDE, bearer(keys["read"])).status_code == 403
        assert send(http, DECIDE).status_code == 401
        assert http.get("/v1/inferences", headers=bearer(keys["read"])).status_code == 503


def test_a_server_that_others_can_reach_is_closed_until_it_knows_the_keys(tmp_path, fleet_file):
    settings = read_settings(home=tmp_path, fleet=fleet_file, host="192.0.2.1")
    with running(settings, AWAY) as address, httpx.Client(base_url=address, timeout=20) as http:
        assert refusal(send(http, DECIDE, bearer("tt_a_b"))) == (503, "not_ready")
        assert http.get("/healthz").status_code == 200
        ready = http.get("/readyz")  # whoever is sent there would be refused
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")


def test_a_hundred_requests_at_once_are_counted_right(client, keys):
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: send(client, DECIDE, bearer(keys["decide"])).status_code, range(100)))
    assert answers == [200] * 100
    assert (
        'trimtab_requests_total{path="unknown",status="401"}'
        in client.get("/metrics", headers=bearer(keys["read"])).text
    )
