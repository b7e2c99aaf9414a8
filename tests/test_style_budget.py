"""The style budget: short functions, small modules, names that say something."""

import ast
import re
import statistics
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("api", "learner", "router", "telemetry")
NAMELESS = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}
MOST_LINES_OF_A_MODULE = 350
MOST_LINES_OF_A_FUNCTION = 60


def python_files(*folders):
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def function_lengths(path):
    """Lines of every function, from its def to its end, decorators and docstring and all."""
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return {f"{path.relative_to(REPOSITORY)}:{n.lineno} {n.name}": n.end_lineno - n.lineno + 1 for n in functions}


@pytest.fixture(scope="module")
def lengths():
    return {name: lines for path in python_files(*PACKAGES) for name, lines in function_lengths(path).items()}


def test_no_function_is_longer_than_sixty_lines(lengths):
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}


def test_half_of_the_functions_have_at_most_ten_lines_and_nine_in_ten_at_most_thirty_five(lengths):
    assert statistics.median(lengths.values()) <= 10
    assert statistics.quantiles(lengths.values(), n=10)[-1] <= 35


def test_no_module_is_longer_than_350_lines():
    lines = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in python_files(*PACKAGES)}
    assert {name: n for name, n in lines.items() if n > MOST_LINES_OF_A_MODULE} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_has_a_name_of_its_own_that_says_what_is_inside(package):
    inside = [path.relative_to(REPOSITORY / package) for path in python_files(package)]
    words = {part.removesuffix(".py") for path in inside for part in path.parts}
    assert words & (NAMELESS | set(PACKAGES)) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_map_of_modules_names_every_module_and_nothing_else(package):
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    rows = page.partition(f"| **{package}** |")[2].partition("| **")[0].splitlines()
    named = {name for row in rows if row.startswith("| `") for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    paths = [path.relative_to(REPOSITORY / package) for path in python_files(package) if path.name != "__init__.py"]
    assert named == {f"{path.parts[0]}/" if path.parts[1:] else path.name for path in paths}


@pytest.mark.parametrize("folder", ["tests", "migrations"])
def test_tests_and_migrations_are_not_packages(folder):
    assert list((REPOSITORY / folder).rglob("__init__.py")) == []
