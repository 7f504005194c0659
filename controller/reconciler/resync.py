"""Wakes all workers of a shard, after a changed spec or when its Lease is held again: client-go's resync.

If thousands of workers began at once, each would open a connection before the first of them had its answer. So they
begin a few at a time, and the next ones wait for them for a moment. They do not wait for a call that hangs: a changed
spec takes effect within two seconds beside a thousand calls that hang.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

#: Workers that had nothing to do and may begin at a time, and the seconds for which the next ones wait for them.
AT_ONCE, SECONDS = 64, 0.5
#: Seconds after which a call that is not answered counts as hanging. Nobody waits for its worker any longer.
HANGING_SECONDS = 0.1


class Wakeable(Protocol):
    """A user's worker, as a resync sees it."""

    @property
    def running(self) -> bool: ...

    @property
    def calling(self) -> bool: ...

    def wake(self) -> None: ...

    async def drained(self) -> None: ...


class Resync:
    """Wakes all workers, as often as that is requested."""

    def __init__(self, workers: Callable[[], Iterable[Wakeable]]) -> None:
        self._workers = workers
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Wake all of them, also those that have been woken a moment ago."""
        self._requested.set()

    async def run(self) -> None:
        """Run until cancelled. A request that comes meanwhile begins with the first worker again."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            workers = iter(self._workers())
            await asyncio.gather(*(self._wake(workers) for _ in range(AT_ONCE)))

    async def _wake(self, workers: Iterator[Wakeable]) -> None:
        while not self._requested.is_set() and (worker := next(workers, None)):
            running = worker.running  # a running worker looks again by itself when its call or its write is over
            worker.wake()
            if not running:
                await _begun(worker)


async def _begun(worker: Wakeable) -> None:
    """Return when the worker has nothing to do any more, when its call hangs, or after SECONDS."""
    work = asyncio.ensure_future(worker.drained())
    for seconds in (HANGING_SECONDS, SECONDS - HANGING_SECONDS):
        done, _ = await asyncio.wait({work}, timeout=seconds)
        if done or worker.calling:
            break
    work.cancel()
