"""How fast the API server is asked to write: at full speed until it refuses, then ever slower until it takes one.

A pause alone would not do: where an overloaded server takes one write and refuses the thirty beside it, they would all
pause and come back together. So each refusal also halves the window of those under way at a time, and each write that
works widens it a little: additive increase, multiplicative decrease, as TCP does it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from controller.errors import ApiError

FIRST_DELAY = 0.1
MAX_DELAY = 5.0
#: What the API server asks for is honoured up to here.
MAX_ASKED = 60.0
#: What a write that works adds to the window, by its size: to try for one more costs a pause where there is no room.
GROWTH = 0.1


class Brake:
    """Shared by all writes of a kind of a stream: a quota or an overloaded API server refuses them all alike."""

    def __init__(self, parallel: int = 1) -> None:
        """`parallel`: writes that are under way at a time at full speed."""
        self._parallel = parallel
        self._window = float(parallel)
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._delay = 0.0
        self._until = 0.0
        self._failing_since: float | None = None
        self.last_error = ""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One attempt, begun when it may be made."""
        await self._enter()
        try:
            while (wait := self._until - time.monotonic()) > 0:
                await asyncio.sleep(wait + random.uniform(0, 0.1 * self._delay))
            yield
        finally:
            self._leave()

    def failed(self, error: ApiError) -> None:
        """An attempt was refused. Those that failed at the same time count once."""
        now = time.monotonic()
        self.last_error = str(error)
        self._failing_since = self._failing_since or now
        if now < self._until:
            return
        self._window = max(self._window / 2, 1.0)
        self._delay = min(2 * self._delay or FIRST_DELAY, MAX_DELAY)
        self._until = now + max(self._delay, min(error.retry_after or 0.0, MAX_ASKED))

    def worked(self) -> None:
        self._delay = 0.0
        self._failing_since = None
        self._window = min(self._window + GROWTH / self._window, self._parallel)

    def failing_for(self) -> float:
        """Seconds since the first of the attempts of which none has worked; 0: the last one did."""
        return time.monotonic() - self._failing_since if self._failing_since is not None else 0.0

    async def _enter(self) -> None:
        """First come, first served: whoever leaves hands over."""
        if not self._waiting and self._under_way < int(self._window):
            self._under_way += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        self._under_way -= 1
        while self._waiting and self._under_way < int(self._window):
            if not (waiter := self._waiting.popleft()).done():
                self._under_way += 1
                waiter.set_result(None)
