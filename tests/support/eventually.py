"""Wait for the world instead of sleeping: poll until a check holds or a deadline has passed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds between two looks.
EVERY = 0.05


def eventually(check: Callable[[], T], within: float = 10.0, every: float = EVERY) -> T:
    """Call `check` until it returns something true and raises no AssertionError; its value.

    After `within` seconds its last AssertionError is raised, or one that shows its last value.
    """
    deadline = time.monotonic() + within
    while True:
        failed: AssertionError | None = None
        value = None
        try:
            value = check()
        except AssertionError as error:
            failed = error
        if failed is None and value:
            return value
        if time.monotonic() > deadline:
            raise _too_late(within, failed, value)
        time.sleep(every)


async def eventually_async(check: Callable[[], Awaitable[T]], within: float = 10.0, every: float = EVERY) -> T:
    """The same for a coroutine function."""
    deadline = time.monotonic() + within
    while True:
        failed: AssertionError | None = None
        value = None
        try:
            value = await check()
        except AssertionError as error:
            failed = error
        if failed is None and value:
            return value
        if time.monotonic() > deadline:
            raise _too_late(within, failed, value)
        await asyncio.sleep(every)


def throughout(check: Callable[[], object], seconds: float, every: float = EVERY) -> None:
    """Call `check` again and again for so long: it has to hold each time. For what must not come about by itself."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert check()
        time.sleep(every)


def _too_late(within: float, failed: AssertionError | None, value: object) -> AssertionError:
    late = AssertionError(f"not within {within:g} s: {failed or f'last value {value!r}'}")
    late.__cause__ = failed
    return late
