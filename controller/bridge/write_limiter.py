"""How fast the API server is asked to write, and which writes it refuses.

Who refuses a write (a quota, a policy, a webhook, a schema, an overloaded server) may do so to all of them, or to one
object for what is in it. The answer's code does not tell, and no answer is final. What tells is whether other writes
work beside it:

- A write that is refused waits by itself, ever longer, and takes no place meanwhile. So one that is refused for what is
  in it slows down nothing but itself.
- The others are slowed down by writes that are refused for the first time, until one works: there may be thousands, and
  a quota refuses all of them. And by every answer of a server in trouble (429, 5xx, none at all), until the same
  object has got one so often while others worked that it is the object.
- Where nothing has worked since the first one was refused, it is an outage. The first write that works then lets two of
  the others try at once, each of which does so again: what comes back is found out in no time, and what does not is not
  run down.

A pause alone would not do for an overloaded server: where it takes one write and refuses the thirty beside it, they
would all pause and come back together. So each of its refusals also halves the window of those under way at a time, and
each write that works widens it a little: additive increase, multiplicative decrease, as TCP does it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from controller.errors import ApiError

FIRST_DELAY = 0.1
#: Between writes to a server in trouble, and between tries of one object while nothing works.
MAX_DELAY = 5.0
#: After one that is refused for the first time: some thirty a second are, where nothing works.
REFUSED_DELAY = 0.03
#: Between tries of an object that is refused while others work.
MAX_OWN_DELAY = 30.0
#: What the API server asks for is honoured up to here.
MAX_ASKED = 60.0
#: Tries of all refused objects together: where there are many, each comes less often.
TRIES_A_SECOND = 10
#: So often an object may get an answer of a server in trouble while others work, before it is the object.
TROUBLED_TRIES = 5
#: What a write that works adds to the window, by its size: to try for one more costs a pause where there is no room.
GROWTH = 0.1
#: Refused ones that a write that works lets try before their time.
WOKEN = 2


@dataclass(slots=True)
class Refusal:
    """A write that was refused and has not worked since. Times are of the monotonic clock."""

    #: What is to be written, for people.
    what: str
    since: float
    last: float
    tries: int = 0
    message: str = ""
    #: Others have worked since it was refused first.
    own: bool = False


class Brake:
    """Shared by all writes of a kind of a stream. Each is known by a key, from its first refusal until it works."""

    def __init__(self, parallel: int = 1) -> None:
        """`parallel`: writes that are under way at a time at full speed."""
        self._parallel = parallel
        self._window = float(parallel)
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._delay = 0.0
        self._until = 0.0
        self._worked = 0.0
        self._failing_since: float | None = None
        self._refusals: dict[Hashable, Refusal] = {}
        #: Those that may be refused for no reason of their own, the oldest first. A set, in order.
        self._alike: dict[Hashable, None] = {}

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One attempt, begun when it may be made. `failed`, `worked` or `forget` says what became of it."""
        await self._enter()
        try:
            while (wait := self._until - time.monotonic()) > 0:
                await asyncio.sleep(wait + random.uniform(0, 0.1 * self._delay))
            yield
        finally:
            self._leave()

    def failed(self, key: Hashable, error: ApiError, what: str) -> float:
        """That write was refused: seconds until it is to be tried again."""
        now = time.monotonic()
        refusal = self._refusals.setdefault(key, Refusal(what, now, now))
        refusal.what = what
        others_work = refusal.tries > 0 and self._worked > refusal.last
        refusal.last, refusal.message, refusal.tries = now, str(error), refusal.tries + 1
        if others_work:
            refusal.own = True
            self._alike.pop(key, None)
        if not refusal.own:  # where it is, that nothing else is written just now says nothing
            self._failing_since = self._failing_since or now
            self._alike[key] = None
        trouble = error.status in (0, 429) or error.status >= 500
        if (trouble and not (refusal.own and refusal.tries > TROUBLED_TRIES)) or refusal.tries == 1:
            self._slow_down(trouble, error.retry_after)
        return self._next_try(refusal, error)

    def worked(self, key: Hashable) -> list[Hashable]:
        """It is written. Returns what was refused and may be tried at once."""
        self._forget(key)
        self._worked = time.monotonic()
        self._failing_since = None
        self._delay = 0.0
        self._window = min(self._window + GROWTH / self._window, self._parallel)
        woken = [other for other, _ in zip(self._alike, range(WOKEN), strict=False)]
        for other in woken:
            del self._alike[other]
        return woken

    def forget(self, key: Hashable) -> None:
        """Nobody has to write it any more."""
        self._forget(key)
        if not self._alike:
            self._failing_since = None

    def keep(self, wanted: Callable[[Hashable], bool]) -> None:
        """Forget all others."""
        for key in [key for key in self._refusals if not wanted(key)]:
            self.forget(key)

    def tries(self, key: Hashable) -> int:
        """How often in a row it was refused."""
        return self._refusals[key].tries if key in self._refusals else 0

    @property
    def oldest(self) -> Refusal | None:
        """What has been refused for longest; None: nothing is."""
        return next(iter(self._refusals.values()), None)

    @property
    def refused(self) -> int:
        """Writes that were refused and have not worked since."""
        return len(self._refusals)

    def failing_for(self) -> float:
        """Seconds since the first refusal after which nothing has worked; 0: something has, or nothing is refused."""
        return time.monotonic() - self._failing_since if self._failing_since is not None else 0.0

    def _forget(self, key: Hashable) -> None:
        self._refusals.pop(key, None)
        self._alike.pop(key, None)

    def _slow_down(self, trouble: bool, asked: float | None) -> None:
        """All of them, but once for what is refused at the same time."""
        now = time.monotonic()
        if now < self._until:
            return
        if not trouble:
            self._until = now + REFUSED_DELAY
            return
        self._window = max(self._window / 2, 1.0)
        self._delay = min(2 * self._delay or FIRST_DELAY, MAX_DELAY)
        self._until = now + max(self._delay, min(asked or 0.0, MAX_ASKED))

    def _next_try(self, refusal: Refusal, error: ApiError) -> float:
        most = max(MAX_OWN_DELAY if refusal.own else MAX_DELAY, len(self._refusals) / TRIES_A_SECOND)
        delay = min(FIRST_DELAY * 2.0 ** min(refusal.tries - 1, 20), most)
        return max(delay, min(error.retry_after or 0.0, MAX_ASKED)) * random.uniform(1.0, 1.1)

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
