"""One name for one thing: no two classes of the product share a name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_no_two_classes_have_one_name() -> None:
    """A reader who meets a name has one place to look it up, and a search for it finds one thing."""
    defined: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "controller").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                defined[node.name].append(str(path.relative_to(ROOT)))
    assert len(defined) > 100
    assert {name: places for name, places in defined.items() if len(places) > 1} == {}
