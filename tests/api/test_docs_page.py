"""The page of calls at /docs."""

import re

import httpx


def test_the_page_of_calls_needs_nothing_from_other_machines(client: httpx.Client) -> None:
    page = client.get("/docs").text
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(files) == 3
    assert [path for path in files if not path.startswith("/docs/")] == []
    assert {client.get(path).status_code for path in files} == {200}
    assert "https://" not in page
