"""The part of the streams' Leases that this controller is to hold: what it leaves to others, and gives away to them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from controller.core.lease_quotas import patience, surplus
from controller.logs import fields
from controller.reconciler.lease_watch import Leases
from controller.reconciler.signs import Signs

logger = logging.getLogger(__name__)

#: Seconds between looks (with jitter).
PERIOD = 1.0
#: A surplus must have lasted for so long: others that have just begun, or stopped, are being made good for already.
SETTLE_SECONDS = 4.0
#: Where nobody takes what is given away, the next try comes later each time, at most so much later.
MAX_SETTLE_SECONDS = 300.0
#: Seconds for which one that could not be given away is kept. Where none can be, so much later comes the next try.
KEPT_SECONDS = 30.0
#: Leases that are given away at a time: each costs its stream a moment's pause.
AT_ONCE = 4


class Wanted(Protocol):
    """A Lease that this controller holds or waits for."""

    @property
    def key(self) -> tuple[str, str]: ...

    @property
    def taken(self) -> bool: ...


class Sharing:
    def __init__(self, identity: str, leases: Leases, signs: Signs) -> None:
        self.leases = leases
        self._identity = identity
        self._signs = signs
        self._wanted: set[Wanted] = set()
        #: Given away, and not seen in anybody's hands yet.
        self._given: set[Wanted] = set()
        self._settle = SETTLE_SECONDS

    def join(self, lease: Wanted) -> None:
        """It is wanted: held, or waited for."""
        self._wanted.add(lease)

    def leave(self, lease: Wanted) -> None:
        """Its stream, or this way of dividing it, is gone."""
        self._wanted.discard(lease)

    @property
    def patience(self) -> float:
        """Seconds for which a free Lease is left to others."""
        return patience(self._identity, self._held(), len(self._wanted))

    @property
    def surplus(self) -> int:
        """How many Leases should be others'."""
        return surplus(self._identity, self._held(), len(self._wanted))

    def _held(self) -> dict[str, int]:
        """How many each living controller holds; one of an earlier version is known by what it holds alone."""
        counts = Counter({self._identity: 0})
        lapsed: set[str] = set()
        for lease in self._wanted:
            seen = self.leases.seen(*lease.key)
            if lease.taken:
                counts[self._identity] += 1
            elif seen and seen.holder and seen.holder != self._identity:
                if seen.free:
                    lapsed.add(seen.holder)
                else:
                    counts[seen.holder] += 1
        # Who lets Leases run out and holds none dies, though its own sign of life is not old enough to say so.
        for controller in self._signs.controllers - lapsed:
            counts.setdefault(controller, 0)
        return dict(counts)

    async def run(self, give: Callable[[int], Awaitable[Iterable[Wanted]]]) -> None:
        """Give away what is too much, for ever. `give` is told how many at most, and returns those it gave."""
        since: float | None = None
        while True:
            await asyncio.sleep(PERIOD * random.uniform(0.8, 1.2))
            now = time.monotonic()
            if self._came_back():
                since = now
            if not (count := self.surplus):
                since = None
                continue
            since = now if since is None else since
            if now - since < self._settle:
                continue
            given = list(await give(min(count, AT_ONCE)))
            self._given.update(given)
            if not given:  # each try keeps calls waiting
                since, self._settle = time.monotonic(), max(min(2 * self._settle, KEPT_SECONDS), self._settle)
            logger.info("Leases given to other controllers", extra=fields(given=len(given), surplus=count))

    def _came_back(self) -> bool:
        """Whether nobody took what was given away: then the next time is later, each time."""
        back = {lease for lease in self._given if lease.taken}
        taken = {lease for lease in self._given - back if (seen := self.leases.seen(*lease.key)) and not seen.free}
        self._given = (self._given - back - taken) & self._wanted
        if back:
            self._settle = min(2 * self._settle, MAX_SETTLE_SECONDS)
        elif taken:
            self._settle = SETTLE_SECONDS
        return bool(back)
