"""What `make check` prints of sizes: lines of files and functions, arguments of constructors."""

from __future__ import annotations

from pathlib import Path

import pytest

from devenv import longest

SOURCE = """
from dataclasses import dataclass, field
from typing import ClassVar


class Plain:
    def __init__(self, a, b=1, *, c):
        self.a = a

    async def two_lines(self):
        pass


@dataclass(slots=True)
class Changes:
    kept: int
    quiet: int = field(repr=False)
    made: list = field(default_factory=list)
    own: int = field(default=0, init=False)
    shared: ClassVar[int] = 3


@dataclass(frozen=True)
class Value:
    a: int


class Without:
    pass
"""


def test_files_functions_and_constructors_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "package" / "module.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    sizes = longest.measure([tmp_path])
    assert sizes.files == [longest.Size(len(SOURCE.splitlines()), str(path))]
    assert sizes.functions == [longest.Size(2, f"{path}:10 two_lines"), longest.Size(2, f"{path}:7 __init__")]
    assert sizes.constructors == [longest.Size(3, f"{path}:6 Plain"), longest.Size(2, f"{path}:15 Changes")]


def test_ten_of_each_are_printed_the_longest_first(capsys: pytest.CaptureFixture[str]) -> None:
    longest.main([])
    lines = capsys.readouterr().out.splitlines()
    titles = [number for number, line in enumerate(lines) if line.startswith("The longest")]
    assert titles == [0, 11, 22] and len(lines) == 33
    for start in titles:
        amounts = [int(line.split()[0]) for line in lines[start + 1 : start + 11]]
        assert amounts == sorted(amounts, reverse=True)
