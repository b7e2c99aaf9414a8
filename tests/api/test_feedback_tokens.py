"""Feedback tokens as a browser uses them: what they open, what they do not, across origins, against stuffing."""

import time
from uuid import UUID, uuid4

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from api.feedback_tokens import FeedbackToken, TokenExpired, TokenSigner, WrongToken
from api.settings import WrongSetting, read_settings
from telemetry.api_keys import create_key
from telemetry.database import create_engine
from telemetry.ids import new_id
from tests.api.conftest import running

SHOP = "https://shop.example"
SIGNER = TokenSigner(key=bytes(range(32)), hours=1)


@pytest.fixture(scope="module")
def engine(module_url):
    engine = create_engine(module_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def key(engine):
    with engine.begin() as conn:
        return create_key(conn, name="gateway", scopes=("decide", "ingest", "feedback", "read"), created_by="a test")[1]


@pytest.fixture(scope="module")
def gateway(key, module_url, home, fleet_file):
    """A client with a key, as the gateway has it, on a server that lets the shop's pages vote."""
    chosen = read_settings(home=home, fleet=fleet_file, cors_origins=f"{SHOP}, http://localhost:3000")
    own = {"Authorization": f"Bearer {key}"}
    with running(chosen, module_url) as address, httpx.Client(base_url=address, timeout=20, headers=own) as http:
        yield http


@pytest.fixture
def decided(gateway):
    """Returns a decision of a fresh session."""

    def decided(**metadata):
        asked = {"query": "where is my parcel", "session_id": str(uuid4()), "metadata": metadata}
        return gateway.post("/v1/route", json=asked).json()

    return decided


def browser(gateway, token):
    return httpx.Client(
        base_url=gateway.base_url, timeout=20, headers={"Authorization": f"Bearer {token}", "Origin": SHOP}
    )


def revisions(engine, inference_id):
    rows = (
        "select op, value, submitter, principal, feedback_id from feedback where target_value = :id order by revision"
    )
    with engine.connect() as conn:
        return conn.execute(text(rows), {"id": inference_id}).all()


def test_with_the_token_of_a_decision_a_browser_votes_changes_its_mind_and_withdraws(gateway, decided, engine):
    decision = decided(end_user="ann")
    with browser(gateway, decision["feedback_token"]) as page:
        vote = {"inference_id": decision["inference_id"], "value": "up"}
        first = page.post("/v1/feedback", json=vote)
        assert first.status_code in (201, 202)
        assert page.post("/v1/feedback", json={**vote, "value": "down"}).json()["revision"] == 2
        path = f"/v1/feedback/{first.json()['feedback_id']}"
        assert page.put(path, json={"value": "down", "correction": "billing"}).json()["revision"] == 3
        assert page.delete(path).json()["revision"] == 4
        assert page.post("/v1/feedback", json=vote).json()["revision"] == 5
    found = revisions(engine, decision["inference_id"])
    assert [(row.op, row.value) for row in found] == [
        *(("create", "up"), ("revise", "down"), ("revise", "down")),
        *(("withdraw", None), ("revise", "up")),
    ]
    assert {row.principal for row in found} == {"feedback-token"}
    with engine.connect() as conn:
        asker = conn.execute(
            text("select end_user from inference where inference_id = :id"), {"id": decision["inference_id"]}
        ).scalar_one()
    assert {row.submitter for row in found} == {asker}


def test_a_vote_by_token_that_says_the_same_again_is_the_one_that_stands(gateway, decided, engine):
    decision = decided()
    vote = {"inference_id": decision["inference_id"], "value": "down", "correction": "billing"}
    with browser(gateway, decision["feedback_token"]) as page:
        first, *again = [page.post("/v1/feedback", json=vote) for _ in range(3)]
        assert first.status_code in (201, 202)
        again.append(page.put(f"/v1/feedback/{first.json()['feedback_id']}", json={"correction": "billing"}))
        assert {(a.status_code, a.json()["status"], a.json()["revision"]) for a in again} == {(200, "duplicate", 1)}
        assert page.post("/v1/feedback", json={**vote, "comment": "a parcel"}).json()["revision"] == 2
        assert page.post("/v1/feedback", json=vote).json()["revision"] == 3
    assert len(revisions(engine, decision["inference_id"])) == 3


def test_a_token_opens_nothing_but_the_feedback_of_its_own_inference(gateway, decided):
    mine, other = decided(), decided()
    judged = {"inference_id": other["inference_id"], "value": "up"}
    given_by_key = gateway.post("/v1/feedback", json={**judged, "feedback_id": str(uuid4())}).json()["feedback_id"]
    calls = [
        ("POST", "/v1/feedback", judged, 403),
        ("POST", "/v1/feedback", {"client_request_id": "x", "value": "up"}, 403),
        ("PUT", f"/v1/feedback/{given_by_key}", {"value": "down"}, 403),
        ("DELETE", f"/v1/feedback/{given_by_key}", None, 403),
        ("GET", f"/v1/feedback/{given_by_key}", None, 403),
        ("GET", f"/v1/inferences/{mine['inference_id']}", None, 403),
        ("POST", "/v1/route", {"query": "x"}, 403),
        ("POST", "/v1/inferences", {"query": "x", "decision": {"route": "billing"}}, 403),
        ("POST", "/v1/feedback-tokens", {"inference_id": other["inference_id"]}, 403),
        ("POST", "/v1/router/rollback", {"reason": "x"}, 403),
        ("GET", "/metrics", None, 403),
    ]
    with browser(gateway, mine["feedback_token"]) as page:
        for method, path, body, status in calls:
            answer = page.request(method, path, json=body)
            assert (path, answer.status_code, answer.json()["detail"][-1]) == (path, status, "."), answer.text


@pytest.mark.parametrize("more", [{"submitter": "bob"}, {"feedback_id": str(uuid4())}, {"annotator_kind": "LLM"}])
def test_a_token_s_holder_cannot_say_who_it_is(gateway, decided, more):
    decision = decided()
    with browser(gateway, decision["feedback_token"]) as page:
        answer = page.post("/v1/feedback", json={"inference_id": decision["inference_id"], "value": "up", **more})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_with_token")


def test_one_token_is_one_vote_however_often_it_is_sent_and_is_slowed_down(gateway, decided, engine):
    decision = decided(end_user="stuffer")
    with browser(gateway, decision["feedback_token"]) as page:
        values = ["up", "down"] * 20
        answers = [
            page.post("/v1/feedback", json={"inference_id": decision["inference_id"], "value": value})
            for value in values
        ]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert (refused.json()["code"], int(refused.headers["retry-after"]) >= 1) == ("rate_limited", True)
    assert len({row.feedback_id for row in revisions(engine, decision["inference_id"])}) == 1


def test_a_token_for_what_was_logged_long_ago_comes_from_the_api(gateway, engine):
    logged = gateway.post(
        "/v1/inferences", json={"query": "x", "decision": {"route": "billing"}, "end_user": "eve"}
    ).json()
    made = gateway.post("/v1/feedback-tokens", json={"inference_id": logged["inference_id"]})
    assert made.status_code == 201
    with browser(gateway, made.json()["feedback_token"]) as page:
        vote = {"inference_id": logged["inference_id"], "value": "up"}
        assert page.post("/v1/feedback", json=vote).status_code == 201
    assert [row.submitter is not None for row in revisions(engine, logged["inference_id"])] == [True]
    unknown = gateway.post("/v1/feedback-tokens", json={"inference_id": str(uuid4())})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_inference")


def test_what_is_not_logged_has_no_token_and_tokens_can_be_turned_off(gateway, module_url, home, fleet_file, key):
    assert "feedback_token" not in gateway.post("/v1/route", json={"query": "x", "log": False}).json()
    chosen = read_settings(home=home, fleet=fleet_file, feedback_token_hours=0)
    with running(chosen, module_url) as address:
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(f"{address}/v1/route", json={"query": "x"}, headers=headers, timeout=20)
    assert answer.json()["feedback_token"] is None


def preflight(client, path, method, origin=SHOP):
    wanted = {"Origin": origin, "Access-Control-Request-Method": method}
    return client.options(path, headers={**wanted, "Access-Control-Request-Headers": "authorization,content-type"})


def test_a_page_that_is_named_may_ask_and_vote_from_its_own_origin(gateway, decided):
    decision = decided()
    with httpx.Client(base_url=gateway.base_url) as nobody:
        for method, path in (
            ("POST", "/v1/feedback"),
            ("PUT", f"/v1/feedback/{KEY}"),
            ("DELETE", f"/v1/feedback/{KEY}"),
        ):
            allowed = preflight(nobody, path, method)
            assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, SHOP)
            assert method in allowed.headers["access-control-allow-methods"]
        refused = nobody.post("/v1/feedback", json={}, headers={"Origin": SHOP})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, SHOP)
    with browser(gateway, decision["feedback_token"]) as page:
        answer = page.post("/v1/feedback", json={"inference_id": decision["inference_id"], "value": "up"})
    assert (answer.is_success, answer.headers["access-control-allow-origin"]) == (True, SHOP)
    assert "access-control-allow-credentials" not in answer.headers


KEY = str(uuid4())


def test_other_pages_and_other_calls_stay_closed(gateway):
    with httpx.Client(base_url=gateway.base_url) as nobody:
        other = preflight(nobody, "/v1/feedback", "POST", origin="https://evil.example")
        assert "access-control-allow-origin" not in other.headers
        for path, method in (("/v1/route", "POST"), ("/v1/inferences", "GET"), ("/v1/feedback-tokens", "POST")):
            assert "access-control-allow-origin" not in preflight(nobody, path, method).headers
        assert preflight(nobody, "/v1/feedback", "GET").status_code == 400
    answer = gateway.get("/v1/feedback", headers={"Origin": SHOP})
    assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (200, False)


def test_without_a_setting_no_page_may(module_url, app_settings):
    with running(app_settings, module_url) as address, httpx.Client(base_url=address) as client:
        assert "access-control-allow-origin" not in preflight(client, "/v1/feedback", "POST").headers


@pytest.mark.parametrize("wrong", ["shop.example", "https://shop.example/path", "*,x", "https://a b", "null"])
def test_a_wrong_origin_is_told(wrong):
    with pytest.raises(WrongSetting, match="CORS_ORIGINS"):
        read_settings(cors_origins=wrong)


@settings(deadline=None, max_examples=200)
@given(
    st.uuids(),
    st.one_of(st.none(), st.text(min_size=1)),
    st.integers(0, 69),
    st.sampled_from("ABCDEFGHIJKLMNOPabcdefghijklmnop0123456789-_ =é\0"),
)
def test_a_token_says_what_was_signed_and_no_other_one_is_taken(inference_id, session, at, letter):
    token = SIGNER.issue(inference_id, end_user=None, session_id=session)
    assert SIGNER.read(token).inference_id == inference_id
    assert (SIGNER.read(token).judge is None) == (session is None)
    forged = token[: 3 + at] + letter + token[4 + at :]
    if forged != token:
        with pytest.raises((WrongToken, TokenExpired)):
            SIGNER.read(forged)
    with pytest.raises(WrongToken):
        TokenSigner(key=bytes(32), hours=1).read(token)


def test_a_token_expires():
    token = TokenSigner(key=bytes(32), hours=1.2 / 3600).issue(new_id(), end_user=None, session_id=None)
    time.sleep(2.2)
    with pytest.raises(TokenExpired, match="has expired"):
        TokenSigner(key=bytes(32), hours=1).read(token)


@given(st.uuids(), st.uuids(), st.one_of(st.none(), st.integers(0, 1000)))
def test_judgements_by_token_have_ids_of_their_own(first, second, place):
    token, other = (FeedbackToken(inference_id=key, judge=None) for key in (first, second))
    made = token.feedback_id(place)
    assert (made.version, token.owns(made), other.owns(made)) == (8, True, first == second)
    assert made != token.feedback_id(place + 1 if place is not None else 0)
    assert isinstance(made, UUID)
