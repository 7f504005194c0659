"""A line of progress on standard error, for what takes long."""

from __future__ import annotations

import sys
import time

#: Off a terminal, seconds between two lines.
OFF_TERMINAL_SECONDS = 5.0
ON_TERMINAL_SECONDS = 0.2


class Progress:
    """How long it has taken, and how much is done; on a terminal the line is rewritten in place."""

    def __init__(self, title: str, unit: str, total: int | None = None) -> None:
        self._title, self._unit, self._total = title, unit, total
        self._terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()

    def show(self, count: int) -> None:
        """Show the amount, unless a line was written just now."""
        now = time.monotonic()
        if now - self._shown >= (ON_TERMINAL_SECONDS if self._terminal else OFF_TERMINAL_SECONDS):
            self._shown = now
            self._write(count, "\n" if not self._terminal else "")

    def done(self, count: int) -> None:
        """Show the amount and that it is all."""
        self._write(count, ", done\n")

    def clear(self) -> None:
        """Remove a line that has not been ended: what comes next begins at its place."""
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _write(self, count: int, end: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        amount = f"{count}/{self._total}" if self._total else str(count)
        line = f"{self._title}: {minutes}:{seconds:02d}, {amount} {self._unit}"
        print(f"\r\033[K{line}" if self._terminal else line, end=end, file=sys.stderr, flush=True)
