"""Balances the Leases of all streams between controllers: leaves free ones to others, and hands over a surplus.

`core.lease_quotas` computes how many each controller is to have.
"""

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
from controller.reconciler.lease_watch import LeaseWatch
from controller.reconciler.process_watch import ProcessWatch

logger = logging.getLogger(__name__)

#: Seconds between looks (with jitter).
PERIOD = 1.0
#: Seconds for which a surplus must have lasted: after a controller has begun or stopped, Leases move anyway. The idea
#: is the stabilization window of a HorizontalPodAutoscaler.
STABILIZATION_SECONDS = 4.0
#: Where nobody acquires the Leases that were handed over, the next try comes later each time, up to this many seconds.
MAX_STABILIZATION_SECONDS = 300.0
#: Seconds for which a Lease that could not be handed over is kept. Where none could be, the next try comes as late.
KEPT_SECONDS = 30.0
#: Leases that are handed over at a time: each costs its stream a moment's pause.
AT_ONCE = 4


class Wanted(Protocol):
    """A Lease that this controller has or waits for."""

    @property
    def key(self) -> tuple[str, str]: ...

    @property
    def taken(self) -> bool: ...


class LeaseBalancer:
    """Says how long this controller leaves free Leases to others, and how many it has too many."""

    def __init__(self, identity: str, leases: LeaseWatch, processes: ProcessWatch) -> None:
        self.leases = leases
        self._identity = identity
        self._processes = processes
        self._wanted: set[Wanted] = set()
        #: Leases that were handed over, and that nobody has acquired yet.
        self._given: set[Wanted] = set()
        self._delay = STABILIZATION_SECONDS

    def add(self, lease: Wanted) -> None:
        """The Lease is wanted from now on."""
        self._wanted.add(lease)

    def remove(self, lease: Wanted) -> None:
        """The Lease is not wanted any more: its stream is gone, or has another number of shards."""
        self._wanted.discard(lease)

    @property
    def patience(self) -> float:
        """Seconds for which a free Lease is left to others."""
        return patience(self._identity, self._held(), len(self._wanted))

    @property
    def surplus(self) -> int:
        """How many Leases this controller has too many."""
        return surplus(self._identity, self._held(), len(self._wanted))

    def _held(self) -> dict[str, int]:
        """How many Leases each live controller has. A controller of an earlier version is known by its Leases alone."""
        counts = Counter({self._identity: 0})
        lapsed: set[str] = set()
        for lease in self._wanted:
            seen = self.leases.observed(*lease.key)
            if lease.taken:
                counts[self._identity] += 1
            elif seen and seen.holder and seen.holder != self._identity:
                if seen.free:
                    lapsed.add(seen.holder)
                else:
                    counts[seen.holder] += 1
        # A controller whose Leases expired and that holds none is dying, though its own Lease does not show that yet.
        for controller in self._processes.controllers - lapsed:
            counts.setdefault(controller, 0)
        return dict(counts)

    async def run(self, hand_over: Callable[[int], Awaitable[Iterable[Wanted]]]) -> None:
        """Hand over the surplus, for ever. `hand_over` gets how many at most, and returns what it handed over."""
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
            if now - since < self._delay:
                continue
            given = list(await hand_over(min(count, AT_ONCE)))
            self._given.update(given)
            if not given:  # each try keeps calls waiting
                since, self._delay = (
                    time.monotonic(),
                    max(min(2 * self._delay, KEPT_SECONDS), self._delay),
                )
            logger.info("Leases given to other controllers", extra=fields(given=len(given), surplus=count))

    def _came_back(self) -> bool:
        """Whether this controller had to acquire again what it handed over. Each time the next try comes later."""
        back = {lease for lease in self._given if lease.taken}
        taken = {lease for lease in self._given - back if (seen := self.leases.observed(*lease.key)) and not seen.free}
        self._given = (self._given - back - taken) & self._wanted
        if back:
            self._delay = min(2 * self._delay, MAX_STABILIZATION_SECONDS)
        elif taken:
            self._delay = STABILIZATION_SECONDS
        return bool(back)
