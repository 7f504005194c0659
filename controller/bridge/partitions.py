"""The partitions that are this replica's, and until when that is certain.

A heartbeat proves nothing: librdkafka's own thread beats on while Python stands still. An accepted commit does: the
coordinator has checked member and generation. It holds the assignment until its send time + session.timeout.ms -
heartbeat.interval.ms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping

from controller.bridge.tracker import Tracker
from controller.kafka import HOLD_SECONDS


class Lost(Exception):
    """The partition is another replica's, or is about to be."""


class Partition:
    """One partition, from its assignment to its revocation."""

    def __init__(self, number: int, serial: int = 0) -> None:
        self.number = number
        #: Of its assignment: the number alone may be assigned again.
        self.serial = serial
        self.revoked = False
        #: Set when reading has begun.
        self.tracker: Tracker | None = None
        #: What waits in its backlogs is known.
        self.adopted = False
        #: The position that is in the status: what may be committed. None: none yet.
        self.recorded: int | None = None
        #: The offset that the coordinator has taken last.
        self.committed: int | None = None
        self.high: int | None = None
        #: Whether it did when it was last asked for its end: without a leader it does not.
        self.answers = True
        self.held_until = float("-inf")
        #: When the first commit was asked for, by the monotonic clock.
        self.committing_since = float("inf")
        #: Records that are listed in the backlogs of its users.
        self.backlog = 0
        #: Creates that are under way.
        self.in_flight = 0

    @property
    def position(self) -> int:
        """Every record below is dealt with. Only where reading has begun."""
        assert self.tracker is not None
        return self.tracker.position

    @property
    def lag(self) -> int | None:
        """Records from the position to the end, as last measured."""
        return max(self.high - self.position, 0) if self.high is not None else None


class Partitions:
    """All partitions of one group member."""

    def __init__(self) -> None:
        self._held: dict[int, Partition] = {}
        self._waiters: list[asyncio.Future[None]] = []
        #: Let go, but their last positions are still to be written.
        self._leaving: list[Partition] = []
        #: What Kafka said of the last commit that it did not take; empty: it has taken it, or said nothing.
        self.commit_refused = ""

    def __iter__(self) -> Iterator[Partition]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def get(self, number: int) -> Partition | None:
        return self._held.get(number)

    @property
    def known(self) -> list[Partition]:
        """Those whose positions are known: reading has begun and the last position is not written yet."""
        return [partition for partition in (*self._held.values(), *self._leaving) if partition.tracker is not None]

    @property
    def recorded(self) -> dict[int, int]:
        """Positions that are in the status, of which the commit is the mirror."""
        return {p.number: p.recorded for p in self._held.values() if p.recorded is not None}

    def assign(self, numbers: Iterable[int], serial: int = 0) -> list[Partition]:
        new = [Partition(number, serial) for number in numbers]
        self._held.update((partition.number, partition) for partition in new)
        return new

    def revoke(self, numbers: Iterable[int]) -> list[Partition]:
        gone = [partition for number in numbers if (partition := self._held.pop(number, None))]
        for partition in gone:
            partition.revoked = True
        self._leaving += gone
        self._wake()
        return gone

    def left(self, gone: Iterable[Partition]) -> None:
        """Their last positions are written, or given up."""
        self._leaving = [partition for partition in self._leaving if partition not in set(gone)]

    def committed(self, offsets: Mapping[int, int], sent: float) -> None:
        """The coordinator accepted a commit that was sent at that monotonic time."""
        self.commit_refused = ""
        for number, offset in offsets.items():
            if partition := self._held.get(number):
                partition.committed = max(offset, partition.committed or 0)
                partition.held_until = max(partition.held_until, sent + HOLD_SECONDS)
        self._wake()

    def uncommitted_for(self, now: float) -> float:
        """Seconds for which the coordinator has not accepted commits of some partition, by the monotonic clock."""
        since = (max(p.held_until - HOLD_SECONDS, p.committing_since) for p in self._held.values())
        return max((now - accepted for accepted in since), default=0.0)

    async def hold(self, partition: Partition) -> None:
        """Return while the partition is certainly this replica's; wait where that is not known. Raises Lost."""
        while True:
            if partition.revoked:
                raise Lost
            if time.monotonic() < partition.held_until:
                return
            await self._next_change()

    async def settled(self, partitions: Iterable[Partition]) -> None:
        """Wait until no create of these is under way."""
        while any(partition.in_flight for partition in partitions):
            await self._next_change()

    def create_ended(self, partition: Partition) -> None:
        partition.in_flight -= 1
        if partition.revoked:
            self._wake()

    def _next_change(self) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
