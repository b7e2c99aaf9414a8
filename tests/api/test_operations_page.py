"""The page about operations says what each metric and each log event means, and names nothing that is not there."""

import re
from pathlib import Path

import httpx

from tests.api.conftest import running

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
MEANT = re.findall(r"^\| `([a-z_]+)` \|", PAGE, flags=re.M)


def test_every_metric_is_explained_and_no_other(module_url, app_settings):
    with running(app_settings, module_url) as address:
        text = httpx.get(f"{address}/metrics", timeout=20).text
    shown = {name.removesuffix("_total") for name in re.findall(r"^# TYPE (trimtab_\S+)", text, flags=re.M)}
    shown = {name for name in shown if not name.endswith("_created")}
    assert shown == {name for name in MEANT if name.startswith("trimtab_")}


def test_every_log_event_is_explained_and_no_other():
    logged = re.compile(r"(?:get_logger\(\)|\blog)\.(?:info|warning|error)\(\s*\"([a-z_]+)\"")
    sources = [path for package in ("api", "router", "learner", "telemetry") for path in (ROOT / package).rglob("*.py")]
    events = {event for path in sources for event in logged.findall(path.read_text())}
    section = PAGE.split("### Logs")[1].split("\n## ")[0]
    assert events == set(re.findall(r"^\| `([a-z_]+)` \|", section, flags=re.M))


def test_the_page_names_every_file_to_deploy():
    assert [path.name for path in (ROOT / "deploy").iterdir() if f"deploy/{path.name}" not in PAGE] == []
