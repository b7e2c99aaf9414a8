"""The page of calls at /docs, and the document that it shows."""

import re

import httpx

from api.errors import Problem


def test_the_page_of_calls_needs_nothing_from_other_machines(client: httpx.Client) -> None:
    page = client.get("/docs").text
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(files) == 3
    assert [path for path in files if not path.startswith("/docs/")] == []
    assert {client.get(path).status_code for path in files} == {200}
    assert "https://" not in page


def test_the_openapi_document_tells_every_error_in_the_shape_that_it_has(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    told = {
        f"{method} {path}": sorted(status for status in call["responses"] if status[0] in "45d")
        for path, calls in document["paths"].items()
        for method, call in calls.items()
    }
    assert told == {call: ["default"] for call in told}
    assert {"Problem", "FieldProblem"} <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for answer in (client.get("/v1/inferences/7"), client.post("/v1/route", json={"query": ""}), client.get("/v1/x")):
        assert Problem.model_validate_json(answer.content, strict=True, extra="forbid").status == answer.status_code
