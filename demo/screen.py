"""Shows the demo while it plays: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo.evidence import Body
from demo.world import World

_STYLES = {"Succeeded": "green", "Running": "cyan", "Waiting": "yellow", "Failed": "red"}
_DONE = "Succeeded"


class Screen:
    """Prints lines, and on a terminal a table below them while `live`."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._start = time.monotonic()

    def start_clock(self) -> None:
        """The seconds of events count from now on."""
        self._start = time.monotonic()

    @contextmanager
    def live(self, world: World) -> Iterator[None]:
        """Show the table of users until the block is left."""
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=lambda: table(world), console=self._console, refresh_per_second=8, transient=True):
            yield

    def line(self, text: str = "", style: str | None = None) -> None:
        """Print a line as it is."""
        self._console.print(Text(text, style=style or ""))
        sys.stdout.flush()

    def event(self, text: str) -> None:
        """Print a line that begins with the seconds since the start."""
        self.line(f"{time.monotonic() - self._start:6.1f} s  {text}")

    def command(self, command: str, output: str) -> None:
        """Print a command and its output."""
        self.line(f"$ {command}", style="bold")
        self.line(output.rstrip())

    def heading(self, text: str) -> None:
        self.line()
        self.line(text, style="bold")


def table(world: World) -> RenderableType:
    """All users in two columns, and counters below."""
    users: defaultdict[str, list[Body]] = defaultdict(list)
    for body in list(world.updates.values()):
        users[body["spec"]["user"]].append(body)
    grid = Table.grid(padding=(0, 3))
    cells = [_cell(user, users[user]) for user in sorted(users, key=lambda user: (len(user), user))]
    half = (len(cells) + 1) // 2
    for left in range(half):
        grid.add_row(*cells[left::half])
    return Group(Text(), grid, Text(), _counters(world), Text())


def _cell(user: str, updates: list[Body]) -> Text:
    """`userid5  ●●○○  Waiting  profile  DownstreamBusy (1), in 3 s`"""
    ordered = sorted(updates, key=lambda body: body["spec"]["sequence"])
    phases = [body.get("status", {}).get("phase") for body in ordered]
    cell = Text(f"{user:<9}")
    for phase in phases:
        cell.append("●" if phase == _DONE else "○", style=_STYLES.get(phase or "", "dim"))
    head = next((body for body in ordered if body.get("status", {}).get("phase") != _DONE), None)
    cell.append(f"  {_words(head):<46}"[:48], style=_STYLES.get((head or {}).get("status", {}).get("phase") or "", ""))
    return cell


def _words(head: Body | None) -> str:
    if head is None:
        return "done"
    status = head.get("status", {})
    if status.get("phase") != "Waiting":
        return f"{status.get('phase', 'queued or in its first call')}  {status.get('step', '')}"
    reason = (status.get("conditions") or [{}])[0].get("reason", "")
    tries = status.get("attempts", 0) or status.get("busyCount", 0)
    return f"Waiting  {status.get('step')}  {reason} ({tries}){_due(status.get('nextAttemptTime'))}"


def _due(text: str | None) -> str:
    if text is None:
        return ""
    seconds = (datetime.fromisoformat(text) - datetime.now(UTC)).total_seconds()
    return f", in {max(0.0, seconds):.0f} s"


def _counters(world: World) -> Text:
    calls = sum(world.stats.get("calls", {}).values())
    done = f"{world.done()} of {len(world.updates)} updates done"
    return Text(f"{done}    {world.in_flight} calls under way, {calls} so far", style="bold")
