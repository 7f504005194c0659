"""The size budget and habits of the code, as far as a test can tell: short files and functions, no sleeping tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted(path for name in ("controller", "devenv", "demo") for path in (ROOT / name).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
#: The one place that may wait; every test polls through it.
PATIENT = {"tests/support/eventually.py"}
#: Tools, no tests: what paces load, or looks at it without disturbing it, waits.
TOOLS = ("tests/benchmarks/", "tests/chaos/")

MAX_FILE = 400
MEDIAN_FILE = 150
MAX_FUNCTION = 60
MEDIAN_FUNCTION = 9
P90_FUNCTION = 35


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_tool(path: Path) -> bool:
    return relative(path).startswith(TOOLS) and not path.name.startswith("test_")


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{relative(path)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=relative)
def test_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=relative)
def test_functions_are_short(path: Path) -> None:
    assert [(name, lines) for name, lines in functions(path) if lines > MAX_FUNCTION] == []


def test_most_of_the_code_is_in_small_pieces() -> None:
    sizes = sorted(lines for path in SOURCES for _, lines in functions(path))
    assert median(sizes) <= MEDIAN_FUNCTION
    assert sizes[len(sizes) * 9 // 10] <= P90_FUNCTION
    assert median(len(path.read_text().splitlines()) for path in SOURCES) <= MEDIAN_FILE


@pytest.mark.parametrize(
    "path",
    [path for path in TESTS if relative(path) not in PATIENT and not is_tool(path)],
    ids=relative,
)
def test_tests_do_not_sleep(path: Path) -> None:
    sleeps = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sleep"
    ]
    assert sleeps == [], "poll with tests.support.eventually instead"
