"""The page about the API names every call and every error code that there is."""

from pathlib import Path

from api.app import create_app
from api.errors import STATUS
from api.settings import read_settings
from telemetry.failure_kinds import FAILURE_KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def test_every_call_stands_on_the_page() -> None:
    document = create_app(read_settings(), database_url="postgresql://nowhere/none").openapi()
    calls = [f"`{method.upper()} {path}`" for path, methods in document["paths"].items() for method in methods]
    assert [call for call in calls if call not in PAGE] == []


def test_every_error_code_and_every_failure_kind_stands_on_the_page() -> None:
    names = [code for _, code in STATUS.values()] + list(FAILURE_KINDS)
    assert [name for name in names if f"`{name}`" not in PAGE] == []
