"""A server without keys and the web pages that a browser on its machine may show: none of them drives it."""

import json
import socket

import httpx
import pytest

from api.admission import OPEN
from api.settings import read_settings
from telemetry.api_keys import create_key
from telemetry.database import create_engine
from tests.api.cli.processes import wait_for
from tests.api.conftest import running
from tests.api.raw_http import answers

SHOP, EVIL = "https://shop.example", "https://evil.example"
OWN_NAMES = (
    *("localhost", "localhost:8080", "LOCALHOST:8080", "localhost.", "shop.localhost:80", "a-b.c.localhost"),
    *("127.0.0.1", "127.0.0.1:8080", "127.8.9.255", "[::1]", "[::1]:8080"),
)
OTHER_NAMES = (
    *("evil.example", "evil.example:8080", "localhost.evil.example", "evil-localhost", "127.0.0.1.evil.example"),
    *("localhost:8080.evil.example", "1127.0.0.1", "127.0.0.1@evil.example", "0.0.0.0:8080", "192.168.0.7", "[::2]"),
    *("[::1].evil.example", "localhost, evil.example", "évil.localhost", "", "x"),
)
OWN_PAGES = ("http://localhost:3000", "https://localhost", "http://127.0.0.1:5173", "http://[::1]:8080")
OTHER_PAGES = (
    *(EVIL, "http://evil.example:8080", "null", "http://localhost.evil.example", "http://evil.example/localhost"),
    *("file://localhost", "chrome-extension://localhost", "localhost:3000", "http://192.168.0.7", "http://x@localhost"),
    "",
)
VOTE = '{"client_request_id": "c-1", "value": "up"}'
CALLS = (
    ("POST", "/v1/router/pin", '{"reason": "from a web page"}'),
    ("POST", "/v1/router/unpin", '{"reason": "from a web page"}'),
    ("POST", "/v1/golden", '{"query": "evil", "routes": ["billing"]}'),
    ("POST", "/v1/learner/runs", "{}"),
    ("POST", "/v1/feedback", VOTE),
    ("POST", "/v1/route", '{"query": "where is my parcel"}'),
    ("POST", "/v1/inferences", '{"query": "x", "decision": {"route": "billing"}}'),
    ("DELETE", "/v1/feedback/907fe960-85d7-4f27-9e13-07e5cc46446c", ""),
    ("GET", "/v1/inferences?limit=1", ""),
    ("GET", "/metrics", ""),
    ("OPTIONS", "/v1/route", ""),
)
ASKED = ("POST", "/v1/route", '{"query": "where is my parcel", "log": false}')


@pytest.fixture(scope="module")
def shop(module_url, home, fleet_file):
    """A client of a server without keys that lets the shop's pages vote."""
    chosen = read_settings(home=home, fleet=fleet_file, cors_origins=SHOP)
    with running(chosen, module_url) as address, httpx.Client(base_url=address, timeout=20) as http:
        yield http


def send(client, call, **headers):
    """As a page's ``fetch`` with ``no-cors`` sends it: no preflight, no content type."""
    method, path, body = call
    named = {name.replace("_", "-"): value.encode() for name, value in headers.items()}
    return client.request(method, path, content=body, headers=named)


def refused(answer, *words):
    body = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json"), answer.text
    assert (body["status"], body["code"], body["detail"][-1]) == (403, "not_local", ".")
    assert all(word in body["detail"] for word in ("trimtab keys create", *words)), body["detail"]
    assert "evil" not in answer.text
    assert "access-control-allow-origin" not in answer.headers
    return True


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call[0]} {call[1]}"[:30])
def test_another_page_is_refused_every_call_and_leaves_nothing(client, rows, call):
    before = rows()
    assert refused(send(client, call, Origin=EVIL, Sec_Fetch_Site="cross-site"), "TRIMTAB_CORS_ORIGINS")
    assert refused(send(client, call, Origin="null"), "TRIMTAB_CORS_ORIGINS")
    assert refused(send(client, call, Sec_Fetch_Site="cross-site"), "TRIMTAB_CORS_ORIGINS")
    assert refused(send(client, call, Host="evil.example"), "localhost")
    assert refused(send(client, call, Host="evil.example", Origin="http://evil.example", Sec_Fetch_Site="same-origin"))
    assert rows() == before


@pytest.mark.parametrize("name", OWN_NAMES)
def test_it_answers_to_every_name_of_the_loopback(client, name):
    assert send(client, ASKED, Host=name).status_code == 200


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_it_answers_to_no_other_name(client, name):
    assert refused(send(client, ASKED, Host=name), "localhost")


@pytest.mark.parametrize("origin", OWN_PAGES)
@pytest.mark.parametrize("site", ["same-origin", "same-site", "cross-site"])
def test_pages_of_this_machine_are_answered(client, origin, site):
    assert send(client, ASKED, Origin=origin, Sec_Fetch_Site=site).status_code == 200


@pytest.mark.parametrize("origin", OTHER_PAGES)
def test_no_other_page_is(client, origin):
    assert refused(send(client, ASKED, Origin=origin), "TRIMTAB_CORS_ORIGINS")


def test_who_says_nothing_of_host_or_page_is_answered(client):
    assert send(client, ASKED, Sec_Fetch_Site="none").status_code == 200
    body = ASKED[2].encode()
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as wire:
        wire.sendall(b"POST /v1/route HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        assert answers(wire, 1) == [200]


def test_two_hosts_are_not_taken_for_the_first(client):
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as wire:
        wire.sendall(b"GET /v1/inferences HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert answers(wire, 1) == [403]


def test_health_and_the_page_of_calls_are_open_whatever_the_server_is_called(client):
    for headers in ({"Host": "evil.example"}, {"Origin": EVIL}):
        assert {path: client.get(path, headers=headers).status_code for path in OPEN} == dict.fromkeys(OPEN, 200)


def test_the_page_of_calls_may_try_them(client):
    own = f"http://{client.base_url.host}:{client.base_url.port}"
    json_type = {"Content-Type": "application/json", "Origin": own, "Sec-Fetch-Site": "same-origin"}
    assert client.post(ASKED[1], content=ASKED[2], headers=json_type).status_code == 200
    assert client.get("/v1/inferences", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def preflight(client, path, origin, method="POST"):
    wanted = {"Origin": origin, "Access-Control-Request-Method": method, "Sec-Fetch-Site": "cross-site"}
    return client.options(path, headers={**wanted, "Access-Control-Request-Headers": "authorization,content-type"})


def test_a_page_that_is_named_may_vote_with_a_token_or_without_and_nothing_else(shop):
    asked = preflight(shop, "/v1/feedback", SHOP)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, SHOP)
    decision = send(shop, ("POST", "/v1/route", '{"query": "where is my parcel"}')).json()
    page = {"Origin": SHOP, "Sec_Fetch_Site": "cross-site"}
    vote = ("POST", "/v1/feedback", json.dumps({"inference_id": decision["inference_id"], "value": "up"}))
    for more in ({"Authorization": f"Bearer {decision['feedback_token']}"}, {}):
        given = send(shop, vote, **page, **more)
        assert (given.is_success, given.headers["access-control-allow-origin"]) == (True, SHOP)
    path = f"/v1/feedback/{given.json()['feedback_id']}"
    assert send(shop, ("PUT", path, '{"value": "down"}'), **page).is_success
    assert send(shop, ("DELETE", path, ""), **page).is_success
    for call in (call for call in CALLS if call[1] != "/v1/feedback" and call[0] != "DELETE"):
        assert refused(send(shop, call, **page))
    assert refused(send(shop, ("GET", "/v1/feedback", ""), **page))


def test_a_page_that_is_not_named_gets_no_leave_and_its_vote_is_not_taken(shop, client):
    for server in (shop, client):
        asked = preflight(server, "/v1/feedback", EVIL)
        assert (asked.status_code in (400, 403), "access-control-allow-origin" in asked.headers) == (True, False)
        assert refused(send(server, ("POST", "/v1/feedback", VOTE), Origin=EVIL))


def test_where_every_page_may_vote_other_calls_stay_closed(module_url, home, fleet_file):
    chosen = read_settings(home=home, fleet=fleet_file, cors_origins="*")
    with running(chosen, module_url) as address, httpx.Client(base_url=address, timeout=20) as client:
        assert send(client, ("POST", "/v1/feedback", VOTE), Origin=EVIL).is_success
        assert refused(send(client, CALLS[0], Origin=EVIL))


def test_with_a_key_nothing_of_this_is_asked(client, module_url):
    engine = create_engine(module_url)
    with engine.begin() as conn:
        key = create_key(conn, name="gateway", scopes=("decide",), created_by="a test")[1]
    engine.dispose()
    own = {"Authorization": f"Bearer {key}"}
    foreign = {"Host": "trimtab.example", "Origin": EVIL, "Sec_Fetch_Site": "cross-site"}
    wait_for(lambda: send(client, ASKED).status_code == 401, every=0.1)
    assert send(client, ASKED, **foreign).status_code == 401
    assert send(client, ASKED, **foreign, **own).status_code == 200
