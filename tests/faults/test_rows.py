"""The list of faults, their tests, the known-bad builds and what the pages say of them agree."""

import re
import shutil
from pathlib import Path

import pytest

from tests.faults.known_bad import BUILDS, ROOT
from tests.faults.rows import ROWS


def test_every_fault_has_a_test():
    marked = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        marked |= set(re.findall(r'mark\.fault\("([^"]+)"\)', file.read_text()))
    assert marked == set(ROWS)


def test_the_pages_say_how_many_faults_there_are():
    for page in ("README.md", "docs/reliability.md"):
        assert f"faults: {len(ROWS)} run, 0 skipped" in (ROOT / page).read_text(), page


def test_the_page_of_faults_names_every_row_and_every_known_bad_build():
    page = (ROOT / "docs" / "reliability.md").read_text()
    assert [row for row in ROWS if f"| {row} |" not in page] == []
    assert [build.name for build in BUILDS if f"| {build.name} |" not in page] == []


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.name)
def test_a_known_bad_build_can_still_be_planted_and_its_tests_are_there(build, tmp_path):
    for path in {patch.path for patch in build.patches}:
        copy = tmp_path / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, copy)
    for patch in build.patches:
        patch.apply(tmp_path)
        compile((tmp_path / patch.path).read_text(), patch.path, "exec")
    for test in build.tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in Path(ROOT / file).read_text()
