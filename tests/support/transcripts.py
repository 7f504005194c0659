"""What the README and the pages of docs/ show: their blocks, compared with what a command printed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
#: What users read; the notes on decisions are for those who change the code.
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
#: Stands in a page for lines that are left out.
OMITTED = "…"

#: What differs from run to run, and what it becomes.
_VARYING = (
    (re.compile(r"^(user\S+) [ 123+bx!·]+$"), r"\1 <its calls>"),
    (re.compile(r"^ [ KS]+$"), "<marks>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\S+Z"), "<time>"),
    (re.compile(r"-[0-9a-f]{6}-p(\d{5})-"), r"-<topic>-p\1-"),
    (re.compile(r"\b(\d+m)?\d+s$"), "<age>"),
    (re.compile(r"\d+\.\d s"), "<seconds>"),
    (re.compile(r"<seconds>( and <seconds>)+"), "<seconds>"),
    (re.compile(r"\d+ of 82 updates done, \d+ calls"), "<n> of 82 updates done, <n> calls"),
    (re.compile(r"\d+ steps recorded"), "<n> steps recorded"),
    (re.compile(r"\d+ unrecorded"), "<n> unrecorded"),
    (re.compile(r"up to \d+ users"), "up to <n> users"),
    (re.compile(r"\s+"), " "),
)


def normalised(text: str) -> list[str]:
    """The lines with times, ids, counts that vary and widths taken out."""
    return [_normalised(line) for line in text.splitlines()]


def blocks(language: str, text: str) -> list[str]:
    """The fenced blocks in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def shown(command: str, text: str) -> Iterator[list[str]]:
    """What the console blocks of a page show of a command, line by line."""
    for block in blocks("console", text):
        first, *lines = block.splitlines()
        if first == f"$ {command}":
            yield lines


def missing(block: Sequence[str], output: str) -> str | None:
    """The first line of a block that the output does not have in its place; None where it has them all."""
    lines = normalised(output)
    at, free = 0, False
    for line in block:
        if line == OMITTED:
            free = True
            continue
        wanted = _normalised(line)
        if free:
            at = next((index for index in range(at, len(lines)) if lines[index] == wanted), len(lines))
        if at >= len(lines) or lines[at] != wanted:
            return line
        at, free = at + 1, False
    return None


def _normalised(line: str) -> str:
    for pattern, replacement in _VARYING:
        line = pattern.sub(replacement, line)
    return line.strip()
