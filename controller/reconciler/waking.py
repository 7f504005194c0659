"""Wakes all lanes of a shard, a few at a time, after a changed spec or when a Lease is back.

Were thousands to begin at once, each would open a connection before the first of them had its answer; so they begin a
few at a time. Nobody waits for a call that hangs: a changed spec acts within two seconds beside a thousand of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

#: How many lanes that had nothing to do may begin at a time, and for how many seconds the next ones wait for them.
AT_ONCE, SECONDS = 64, 0.5
#: Seconds after which a lane whose call is still not answered counts as hanging, and is waited for no longer.
HANGING_SECONDS = 0.1


class Wakeable(Protocol):
    """A lane, as far as it matters here."""

    @property
    def busy(self) -> bool: ...

    @property
    def calling(self) -> bool: ...

    def wake(self) -> None: ...

    async def drained(self) -> None: ...


class Waking:
    """Wakes all lanes, as often as that is asked for."""

    def __init__(self, lanes: Callable[[], Iterable[Wakeable]]) -> None:
        self._lanes = lanes
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Wake all of them, also those that have been woken a moment ago."""
        self._asked.set()

    async def run(self) -> None:
        """For ever; from the first one again when that is asked for meanwhile."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            lanes = iter(self._lanes())
            await asyncio.gather(*(self._next_ones(lanes) for _ in range(AT_ONCE)))

    async def _next_ones(self, lanes: Iterator[Wakeable]) -> None:
        while not self._asked.is_set() and (lane := next(lanes, None)):
            busy = lane.busy  # then it looks again by itself, when its call or its write is over
            lane.wake()
            if not busy:
                await _begun(lane)


async def _begun(lane: Wakeable) -> None:
    """Return when it has done what there was to do now, when it hangs, or after a while."""
    work = asyncio.ensure_future(lane.drained())
    for seconds in (HANGING_SECONDS, SECONDS - HANGING_SECONDS):
        done, _ = await asyncio.wait({work}, timeout=seconds)
        if done or lane.calling:
            break
    work.cancel()
