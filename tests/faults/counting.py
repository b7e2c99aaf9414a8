"""Which rows of ``ROWS`` a test run has run: ``faults: N run, 0 skipped``. ``tests/conftest.py`` takes the hooks in."""

from collections.abc import Iterable

import pytest
from _pytest.terminal import TerminalReporter

from tests.faults.rows import ROWS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Write each test's rows down where its report carries them, from a worker process too."""
    for item in items:
        for row in (name for mark in item.iter_markers("fault") for name in mark.args):
            if row not in ROWS:
                raise pytest.UsageError(f"{item.nodeid} names the fault {row!r}, which is not in tests/faults/rows.py.")
            item.user_properties.append(("fault", row))


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Say how many rows were run, and name those that were not."""
    tried = _rows(terminalreporter, ("passed", "failed", "error"))
    if not tried:
        return
    skipped = _rows(terminalreporter, ("skipped",))
    run = tried - skipped
    terminalreporter.write_line(f"faults: {len(run)} run, {len(skipped)} skipped")
    for row in ROWS:
        if row in skipped:
            terminalreporter.write_line(f"  skipped: {row}")
        elif row not in run and config.option.markexpr == "fault":
            terminalreporter.write_line(f"  without a test: {row}")


def _rows(reporter: TerminalReporter, outcomes: Iterable[str]) -> set[str]:
    reports = [report for outcome in outcomes for report in reporter.stats.get(outcome, [])]
    return {value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "fault"}
