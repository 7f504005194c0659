"""Wait for the world instead of sleeping: poll until a check holds or a deadline has passed.

Seconds here are those of a machine that has time. Where processes wait for a processor or a disk, as they do when tests
run side by side, such seconds count less: a bound is as strict as it says on a machine that does nothing else, and
generous on a busy one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import httpx

T = TypeVar("T")

#: What a look raises where the world is not there yet: something is missing, half written, or nobody answers.
NOT_YET = (AssertionError, LookupError, ValueError, OSError, httpx.TransportError)

#: Seconds between two looks, at first and after a while: a look that asks the API server takes its processor time.
EVERY = 0.05
MOST = 0.25
#: How many seconds of a machine that is busy all the time count as one.
BUSY = 6
#: The kernel's own account of waiting, in microseconds: https://docs.kernel.org/accounting/psi.html
_PRESSURE = tuple(Path(f"/proc/pressure/{resource}") for resource in ("cpu", "io"))
_SOME = re.compile(r"^some .*total=(\d+)$", re.MULTILINE)


class Stopwatch:
    """Seconds since it was made, as this module counts them."""

    def __init__(self) -> None:
        self._began, self._waited = time.monotonic(), _waited()

    @property
    def seconds(self) -> float:
        elapsed = time.monotonic() - self._began
        return elapsed - min(_waited() - self._waited, elapsed * (1 - 1 / BUSY))

    @property
    def pause(self) -> float:
        """Until the next look: a twentieth of the time so far, within bounds."""
        return min(max((time.monotonic() - self._began) / 20, EVERY), MOST)


def _waited() -> float:
    """Seconds for which some process has waited so far. Where the kernel does not say, every other second counts."""
    try:
        return sum(int(_SOME.findall(path.read_text())[0]) for path in _PRESSURE) / 1e6
    except (OSError, IndexError):
        return time.monotonic() / 2


def eventually(
    check: Callable[[], T],
    within: float = 10.0,
    every: float | None = None,
    *,
    not_yet: tuple[type[Exception], ...] = NOT_YET,
) -> T:
    """Call `check` until it returns something true and raises nothing of `not_yet`; its value.

    After `within` seconds an AssertionError is raised that shows what it raised or returned last.
    """
    watch = Stopwatch()
    while True:
        failed: Exception | None = None
        value = None
        try:
            value = check()
        except not_yet as error:
            failed = error
        if failed is None and value:
            return value
        if watch.seconds > within:
            raise _too_late(within, failed, value)
        time.sleep(watch.pause if every is None else every)


async def eventually_async(check: Callable[[], Awaitable[T]], within: float = 10.0, every: float | None = None) -> T:
    """The same for a coroutine function."""
    watch = Stopwatch()
    while True:
        failed: Exception | None = None
        value = None
        try:
            value = await check()
        except NOT_YET as error:
            failed = error
        if failed is None and value:
            return value
        if watch.seconds > within:
            raise _too_late(within, failed, value)
        await asyncio.sleep(watch.pause if every is None else every)


async def let_run(pauses: int = 2, every: float = 0.01) -> None:
    """Let the other tasks of the event loop go on: so many pauses, `every` seconds each."""
    for _ in range(pauses):
        await asyncio.sleep(every)


def throughout(check: Callable[[], object], seconds: float, every: float = EVERY) -> None:
    """Call `check` again and again for so long: it has to hold each time. For what must not come about by itself.

    These are seconds of the clock.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert check()
        time.sleep(every)


def _too_late(within: float, failed: Exception | None, value: object) -> AssertionError:
    last = f"last value {value!r}" if failed is None else str(failed) or repr(failed)
    last = f"{type(failed).__name__}: {last}" if failed and not isinstance(failed, AssertionError) else last
    late = AssertionError(f"not within {within:g} s: {last}")
    late.__cause__ = failed
    return late
