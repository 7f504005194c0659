"""How fast the API server is asked to create: at full speed until it refuses, then ever slower until it takes one."""

from __future__ import annotations

import asyncio
import random
import time

from controller.errors import ApiError

FIRST_DELAY = 0.1
MAX_DELAY = 5.0
#: What the API server asks for is honoured up to here.
MAX_ASKED = 60.0


class Brake:
    """Shared by all writes of a kind of a stream: a quota or an overloaded API server refuses them all alike."""

    def __init__(self) -> None:
        self._delay = 0.0
        self._until = 0.0
        self._failing_since: float | None = None
        self.last_error = ""

    async def wait(self) -> None:
        """Until the next attempt may be made."""
        while (wait := self._until - time.monotonic()) > 0:
            await asyncio.sleep(wait + random.uniform(0, 0.1 * self._delay))

    def failed(self, error: ApiError) -> None:
        """An attempt was refused. Those that failed at the same time count once."""
        now = time.monotonic()
        self.last_error = str(error)
        self._failing_since = self._failing_since or now
        if now < self._until:
            return
        self._delay = min(2 * self._delay or FIRST_DELAY, MAX_DELAY)
        self._until = now + max(self._delay, min(error.retry_after or 0.0, MAX_ASKED))

    def worked(self) -> None:
        self._delay = 0.0
        self._failing_since = None

    def failing_for(self) -> float:
        """Seconds since the first of the attempts of which none has worked; 0: the last one did."""
        return time.monotonic() - self._failing_since if self._failing_since is not None else 0.0
