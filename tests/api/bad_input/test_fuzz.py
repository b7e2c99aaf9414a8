"""What nobody thought of: Schemathesis over the OpenAPI document, any JSON, and mutilated bodies. Never a 500."""

import contextlib
import json

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from tests.api.bad_input.corpus import BATCH, CALLS, KEY, Raw, written

ALL_CALLS = (*CALLS, BATCH)
JSON = {"content-type": "application/json"}
quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
_ODD = (
    "nul\0",
    "\u202e",
    "e\u0301" * 100,
    "../",
    "' or 1=1",
    KEY,
    "up",
    "2026-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
)
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**64), 2**64),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(_ODD),
    st.sampled_from(["NaN", "1e400", "-Infinity", '"\\ud800"', "9" * 4_400]).map(lambda text: Raw(text=text)),
)
_ANY = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def api_schema(client):
    """The OpenAPI document of the running server. A good request to start a night would really start one."""
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    return schema.exclude(path="/v1/learner/runs", method="POST")


def check(answer):
    """No error of ours; what is refused is refused in the one shape, batches item by item."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and "results" not in answer.text:
        assert "application/problem+json" in answer.headers["content-type"]
        assert answer.json()["detail"].endswith(".")


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_made_from_the_openapi_document_is_answered_500(api_schema, mode):
    operations = [result.ok() for result in api_schema.get_all_operations()]
    assert len(operations) >= 20
    with requests.Session() as session:
        for operation in operations:

            @settings(quick, max_examples=12)
            @given(case=operation.as_strategy(generation_mode=mode))
            def is_answered(case):
                check(case.call(session=session, timeout=20))

            with contextlib.suppress(Unsatisfiable):  # there is nothing to get wrong in a call without parameters
                is_answered()


@st.composite
def _bodies(draw):
    """A call and a body whose fields may hold anything."""
    call = draw(st.sampled_from(ALL_CALLS))
    names = st.sampled_from(sorted({where.split(".")[0] for where in call.fields} | set(call.body)))
    changed = draw(st.dictionaries(names, _ANY, min_size=1, max_size=3))
    if call.path == "/v1/learner/runs":
        changed["force"] = draw(_ANY.filter(lambda value: not isinstance(value, bool)))
    return call, {**call.body, **changed}


@quick
@given(made=_bodies())
def test_no_value_of_any_field_is_answered_500(client: httpx.Client, made):
    call, body = made
    check(client.request(call.method, call.path, content=written(body).encode("utf-8", "surrogatepass"), headers=JSON))


@quick
@given(call=st.sampled_from(ALL_CALLS[:-2]), cut=st.data())
def test_no_mutilated_body_is_answered_500(client: httpx.Client, call, cut):
    good = json.dumps(call.body).encode()
    start = cut.draw(st.integers(0, len(good)))
    end = cut.draw(st.integers(start, min(len(good), start + 5)))
    body = good[:start] + cut.draw(st.binary(max_size=5)) + good[end:]
    check(client.request(call.method, call.path, content=body, headers=JSON))


@quick
@given(value=st.text(), path=st.sampled_from(["inferences", "feedback", "learner/runs", "router/versions"]))
def test_no_path_or_parameter_is_answered_500(client: httpx.Client, value, path):
    text = value.encode("utf-8", "surrogatepass")
    check(client.get(f"/v1/{path}/" + "".join(f"%{byte:02x}" for byte in text)))
    check(client.get(f"/v1/{path}?after=" + "".join(f"%{byte:02x}" for byte in text)))
