"""Habits of the tests, as far as a test can tell: they wait for what they expect, and do not sleep."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
#: The one place that may wait; every test polls through it.
PATIENT = {"tests/support/eventually.py"}
#: Tools, no tests: what paces load, or looks at it without disturbing it, waits.
TOOLS = ("tests/benchmarks/", "tests/chaos/")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_tool(path: Path) -> bool:
    return relative(path).startswith(TOOLS) and not path.name.startswith("test_")


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
