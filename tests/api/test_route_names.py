"""Names of routes in any script: decided, and told in a header that only knows bytes."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest

from api.settings import read_settings
from learner.first_version import build_first_version
from router.encoder import Encoder
from router.fleet import parse_fleet
from router.registry import publish
from telemetry.database import create_engine
from tests.api.conftest import running

FLEET = """
fallback: 100% 其他
routes:
  - name: 退款
    utterances: [I want a refund, give me my money back, why was I charged twice]
  - name: où est-ce
    utterances: [where is my parcel, when will my order arrive, the courier did not come]
  - name: pets & care
    utterances: [my dog is ill, what do cats eat, the hamster sleeps all day]
  - name: 100% 其他
"""


@pytest.fixture(scope="module")
def client(module_url: str, home: Path, encoder: Encoder) -> Iterator[httpx.Client]:
    version = build_first_version(parse_fleet(FLEET, source="fleet.yaml"), encoder=encoder)
    engine = create_engine(module_url)
    with engine.begin() as conn:
        publish(conn, version, actor="test", reason="other names", parent=1)
    engine.dispose()
    with running(read_settings(home=home), module_url) as address, httpx.Client(base_url=address, timeout=20) as http:
        yield http


@pytest.mark.parametrize("route", ["退款", "où est-ce", "pets & care", "100% 其他"])
def test_a_route_may_have_a_name_in_any_script(client: httpx.Client, route: str) -> None:
    answer = client.post("/v1/route", json={"query": "hello there", "metadata": {"route": route}, "log": False})
    assert (answer.status_code, answer.json().get("route")) == (200, route)
    assert unquote(answer.headers["x-trimtab-route"]) == route
    assert answer.headers["x-trimtab-route"].isascii()


def test_a_name_of_plain_letters_stands_in_the_header_as_it_is(client: httpx.Client) -> None:
    answer = client.post("/v1/route", json={"query": "x", "metadata": {"route": "pets & care"}, "log": False})
    assert answer.headers["x-trimtab-route"] == "pets & care"
