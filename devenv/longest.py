"""The longest files and functions, and the constructors with the most arguments: where to look for what can be divided.

`make check` prints them and fails on none of them: one idea a file is the rule, whatever its length.

    python -m devenv.longest            the product, the developer's environment and the demo
    python -m devenv.longest tests      other folders
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from devenv.layout import ROOT

FOLDERS = ("controller", "devenv", "demo")
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Size:
    """How large one thing is: lines of a file or function, arguments of a constructor."""

    amount: int
    where: str


@dataclass(frozen=True, slots=True)
class Sizes:
    """All that was measured, the largest first."""

    files: list[Size]
    functions: list[Size]
    constructors: list[Size]


def measure(folders: Sequence[Path]) -> Sizes:
    """Measure every Python file beneath these folders. Raises SyntaxError where a file is no Python."""
    files: list[Size] = []
    functions: list[Size] = []
    constructors: list[Size] = []
    for folder in folders:
        for path in folder.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text, str(path))
            name = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
            files.append(Size(len(text.splitlines()), name))
            functions += _functions(tree, name)
            constructors += _constructors(tree, name)
    return Sizes(_largest_first(files), _largest_first(functions), _largest_first(constructors))


def _largest_first(sizes: list[Size]) -> list[Size]:
    return sorted(sizes, key=lambda size: (-size.amount, size.where))


def _functions(tree: ast.Module, name: str) -> Iterator[Size]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Size((node.end_lineno or node.lineno) - node.lineno + 1, f"{name}:{node.lineno} {node.name}")


def _constructors(tree: ast.Module, name: str) -> Iterator[Size]:
    """Each class with an `__init__`, and each dataclass that can change, by the fields that it has to be given.

    A frozen dataclass is a value: its fields are not what an object works with.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        if inits:
            given = inits[0].args
            amount = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1  # without self
        elif any(_is_mutable_dataclass(each) for each in node.decorator_list):
            amount = sum(isinstance(each, ast.AnnAssign) and _is_required(each) for each in node.body)
        else:
            continue
        yield Size(amount, f"{name}:{node.lineno} {node.name}")


def _is_mutable_dataclass(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
    frozen = any(
        each.arg == "frozen" and isinstance(each.value, ast.Constant) and each.value.value for each in keywords
    )
    return ast.unparse(called) in ("dataclass", "dataclasses.dataclass") and not frozen


def _is_required(field: ast.AnnAssign) -> bool:
    """Whether the constructor needs a value for this field."""
    if ast.unparse(field.annotation).startswith("ClassVar"):
        return False
    if isinstance(field.value, ast.Call) and ast.unparse(field.value.func) in ("field", "dataclasses.field"):
        return not {each.arg for each in field.value.keywords} & {"default", "default_factory", "init"}
    return field.value is None


def main(arguments: Sequence[str]) -> None:
    """Print the ten largest of each kind."""
    sizes = measure([ROOT / folder for folder in arguments or FOLDERS])
    for title, found in (
        ("files, in lines", sizes.files),
        ("functions, in lines", sizes.functions),
        ("constructors, in arguments", sizes.constructors),
    ):
        print(f"The longest {title}:")
        for size in found[:SHOWN]:
            print(f"  {size.amount:>4}  {size.where}")


if __name__ == "__main__":
    main(sys.argv[1:])
