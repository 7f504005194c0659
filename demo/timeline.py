"""Draws the play as text: a line for each user, with time from left to right. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from devenv.journal import STEPS, Call

#: Columns that the time may take.
WIDTH = 72
#: Seconds of the narrowest column.
NARROWEST = 0.2

WAITS, SEVERAL = "·", "+"
LEGEND = (
    "1 2 3 call of profile, permissions, resources, while it lasts; + several calls; b told busy; x failed; ! cut off;"
    " · waiting for its time"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """An event that concerns all users: a letter above their lines."""

    letter: str
    time_ns: int


def render(calls: Sequence[Call], marks: Sequence[Mark]) -> list[str]:
    """The lines: the legend, the marks, then the users in natural order."""
    if not calls:
        return ["no calls"]
    scale = _scale(calls)
    users = sorted({call.user for call in calls}, key=_natural)
    indent = max(map(len, users)) + 2
    lines = [f"one column is {scale.seconds:.1f} s; {LEGEND}", " " * indent + _marks(marks, scale)]
    for user in users:
        own = [call for call in calls if call.user == user]
        lines.append(f"{user:<{indent}}{_row(own, scale)}")
    return lines


@dataclass(frozen=True, slots=True)
class _Scale:
    start_ns: int
    seconds: float
    columns: int

    def column(self, time_ns: int) -> int:
        return max(0, min(self.columns - 1, int((time_ns - self.start_ns) / 1e9 / self.seconds)))

    def overlap(self, column: int, begin_ns: int, end_ns: int) -> float:
        """Nanoseconds of a span that lie in a column."""
        left = self.start_ns + column * self.seconds * 1e9
        return min(end_ns, left + self.seconds * 1e9) - max(begin_ns, left)


def _scale(calls: Sequence[Call]) -> _Scale:
    start = min(call.time_ns for call in calls)
    end = max(_end(call) for call in calls)
    seconds = max(NARROWEST, math.ceil((end - start) / 1e9 / WIDTH * 10) / 10)
    return _Scale(start, seconds, int((end - start) / 1e9 / seconds) + 1)


def _row(calls: Sequence[Call], scale: _Scale) -> str:
    """Each column shows what took most of its time; the end of a call is shown where it ended.

    A call that takes most of no column would be missing: the column in which it began shows `+`, for more than one.
    """
    cells = [" "] * scale.columns
    most = [0.0] * scale.columns
    spans = list(_spans(calls))
    shown: list[int | None] = [None] * scale.columns
    for index, (begin, end, letter) in enumerate(spans):
        for column in range(scale.column(begin), scale.column(end) + 1):
            share = scale.overlap(column, begin, end)
            if share > most[column]:
                cells[column], most[column], shown[column] = letter, share, index
    for index, (begin, _, letter) in enumerate(spans):
        if index not in shown and letter != WAITS:
            cells[scale.column(begin)] = SEVERAL
    for call in calls:
        if (letter := _ending(call)) != " ":
            cells[scale.column(_end(call))] = letter
    return "".join(cells).rstrip()


def _spans(calls: Sequence[Call]) -> Iterable[tuple[int, int, str]]:
    delayed_from: int | None = None
    for call in calls:
        if delayed_from is not None:
            yield delayed_from, call.time_ns, WAITS
        yield call.time_ns, _end(call), str(STEPS.index(call.step) + 1)
        delayed_from = _end(call) if _ending(call) in "bx" else None


def _ending(call: Call) -> str:
    if call.gone or call.status is None:
        return "!"
    if call.succeeded:
        return " "
    return "b" if call.busy else "x"


def _end(call: Call) -> int:
    return call.end_time_ns if call.end_time_ns is not None else call.time_ns


def _marks(marks: Sequence[Mark], scale: _Scale) -> str:
    cells = [" "] * scale.columns
    for mark in marks:
        cells[scale.column(mark.time_ns)] = mark.letter
    return "".join(cells).rstrip()


def _natural(user: str) -> list[tuple[bool, int, str]]:
    """userid2 before userid10."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", user)]
