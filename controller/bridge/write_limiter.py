"""How fast the API server is asked to write, and which writes it refuses.

The API server may refuse a write because of what is in the object, or refuse all writes: by a quota, a policy, a
webhook, a schema, or because it is overloaded. The answer's code does not say which, and no answer is final. So the
limiter looks at whether other writes work at the same time:

- A refused write waits by itself, longer each time, and takes no slot meanwhile. So a write that is refused for what
  is in it slows down nothing but itself.
- Writes that are refused for the first time slow down the others until one works: there may be thousands of them, and
  a quota refuses all. So does every answer of a server in trouble (429, 5xx, none at all), until the same object has
  got such answers TROUBLED_TRIES times while others worked: then the object is the cause.
- Where nothing has worked since the first refusal, it is an outage. The first write that works then lets two of the
  others try at once, each of which does so again. So writes that work again are found at once, and the server is not
  overrun with those that do not.

A pause alone would not do for an overloaded server: where it takes one write and refuses the thirty beside it, all of
them would pause and come back together. So each of its refusals also halves the window of writes that are under way at
a time, and each write that works widens it a little: additive increase, multiplicative decrease, as in TCP.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from controller.errors import ApiError

FIRST_DELAY = 0.1
#: Most seconds between writes to a server in trouble, and between tries of one object while nothing works.
MAX_DELAY = 5.0
#: Seconds after a write that is refused for the first time. Where nothing works, some thirty a second are tried.
REFUSED_DELAY = 0.03
#: Most seconds between tries of an object that is refused while others work.
MAX_OWN_DELAY = 30.0
#: Most seconds that the API server may ask for (Retry-After).
MAX_ASKED = 60.0
#: Tries of all refused objects together: where there are many, each is tried less often.
TRIES_A_SECOND = 10
#: Answers of a server in trouble that an object may get while others work, before the object counts as the cause.
TROUBLED_TRIES = 5
#: A write that works widens the window by so much, divided by its size: a refusal for lack of room costs a pause.
GROWTH = 0.1
#: Refused writes that may try before their time when another one works.
WOKEN = 2


@dataclass(slots=True)
class Refusal:
    """A write that was refused and has not worked since. Times are of the monotonic clock."""

    #: The object that is to be written, for people.
    what: str
    since: float
    last: float
    tries: int = 0
    message: str = ""
    #: Others have worked since its first refusal: it is refused for a reason of its own.
    own: bool = False


class WriteLimiter:
    """Shared by all writes of one kind of a stream. A refused write is known by its key until it works."""

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
        #: Keys of writes that may be refused as all others are, for no reason of their own, the oldest first: an
        #: ordered set.
        self._alike: dict[Hashable, None] = {}

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until an attempt may be made, and make it within. Then call `failed`, `succeeded` or `forget`."""
        await self._enter()
        try:
            while (wait := self._until - time.monotonic()) > 0:
                await asyncio.sleep(wait + random.uniform(0, 0.1 * self._delay))
            yield
        finally:
            self._leave()

    def failed(self, key: Hashable, error: ApiError, what: str) -> float:
        """The write was refused. Returns the seconds until it is to be tried again. `what` names it for people."""
        now = time.monotonic()
        refusal = self._refusals.setdefault(key, Refusal(what, now, now))
        refusal.what = what
        others_work = refusal.tries > 0 and self._worked > refusal.last
        refusal.last, refusal.message, refusal.tries = now, str(error), refusal.tries + 1
        if others_work:
            refusal.own = True
            self._alike.pop(key, None)
        if not refusal.own:  # else it says nothing about the others
            self._failing_since = self._failing_since or now
            self._alike[key] = None
        trouble = error.status in (0, 429) or error.status >= 500
        if (trouble and not (refusal.own and refusal.tries > TROUBLED_TRIES)) or refusal.tries == 1:
            self._slow_down(trouble, error.retry_after)
        return self._next_try(refusal, error)

    def succeeded(self, key: Hashable) -> list[Hashable]:
        """The write worked. Returns the keys of refused writes that may be tried at once."""
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
        """The write is no longer needed."""
        self._forget(key)
        if not self._alike:
            self._failing_since = None

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget all others."""
        for key in [key for key in self._refusals if key not in keys]:
            self.forget(key)

    def tries(self, key: Hashable) -> int:
        """How often in a row the write was refused."""
        return self._refusals[key].tries if key in self._refusals else 0

    @property
    def oldest(self) -> Refusal | None:
        """The write that has been refused for longest; None: no write is refused."""
        return next(iter(self._refusals.values()), None)

    @property
    def refused(self) -> int:
        """Writes that were refused and have not worked since."""
        return len(self._refusals)

    def failing_for(self) -> float:
        """Seconds since the first refusal after which no write has worked; 0: one has, or none is refused."""
        return time.monotonic() - self._failing_since if self._failing_since is not None else 0.0

    def _forget(self, key: Hashable) -> None:
        self._refusals.pop(key, None)
        self._alike.pop(key, None)

    def _slow_down(self, trouble: bool, asked: float | None) -> None:
        """Slow all writes down, once for those that are refused at the same time."""
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
        """First come, first served: a write that leaves wakes the next."""
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
