"""The partitions that are assigned to this replica: how far each is done, and until when it is certainly held.

A record is done when it is a UserUpdate, a RejectedEvent or in a UserBacklog. Each user's records are done in order,
those of different users in parallel, so `OffsetTracker` keeps those offsets that are still open. `position` is the
lowest of them.

A heartbeat does not prove that a partition is still assigned: librdkafka's own thread sends heartbeats while Python is
blocked. An accepted commit proves it, as the coordinator has checked member and generation. From then on the partition
is certainly held until the commit's sending time + session.timeout.ms - heartbeat.interval.ms
(docs/decisions/0041-assignment-deadline.md).
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

from controller.kafka import HOLD_SECONDS


class Lost(Exception):
    """The partition is another replica's, or is about to be."""


class OffsetTracker:
    """Which records of a partition are done, from the offset at which its reading begins.

    Pure. Offsets have gaps (compaction, markers of transactions), so only records that were read are counted.

    A record that is done takes no memory here, even while a lower one is open. Only each UserUpdate that was
    created above the position takes 8 bytes. `pausing` bounds their number, because none of them can be collected.
    """

    def __init__(self, start: int) -> None:
        self._next = start
        #: The open offsets, rising: an ordered set. A dict would search for its first key through all that have left.
        self._open: OrderedDict[int, None] = OrderedDict()
        #: UserUpdates at and above the position, as a heap; some below it may still be in it.
        self._created: list[int] = []

    @property
    def position(self) -> int:
        """Every record below this offset is done."""
        return next(iter(self._open), self._next)

    @property
    def next(self) -> int:
        """One above the highest offset that was read."""
        return self._next

    @property
    def outstanding(self) -> int:
        """Records that were read and are open."""
        return len(self._open)

    @property
    def created_above(self) -> int:
        """UserUpdates that the position has not passed. They cannot be collected, finished or not."""
        position = self.position
        while self._created and self._created[0] < position:
            heapq.heappop(self._created)
        return len(self._created)

    def begin(self, offset: int) -> bool:
        """A record was read. False where it, or a later one, was read before: then it is open or done already."""
        if offset < self._next:
            return False
        self._open[offset] = None
        self._next = offset + 1
        return True

    def reach(self, offset: int) -> None:
        """No record lies between those that were read and this offset."""
        self._next = max(self._next, offset)

    def done(self, offset: int) -> None:
        """A record is done."""
        self._open.pop(offset, None)

    def created(self, offset: int) -> None:
        """The UserUpdate of a record exists. The record was read just now, or fetched from a backlog."""
        if offset >= self.position:
            heapq.heappush(self._created, offset)


class Partition:
    """One partition, from its assignment to its revocation."""

    def __init__(self, number: int, serial: int = 0) -> None:
        self.number = number
        #: The serial of its assignment (`Assigned.serial`): a partition that is revoked may be assigned again.
        self.serial = serial
        self.revoked = False
        #: None until reading begins.
        self.tracker: OffsetTracker | None = None
        #: Its users' backlogs are loaded.
        self.backlogs_loaded = False
        #: The position in the stream's status, which may be committed; None: there is none yet.
        self.recorded: int | None = None
        #: The offset that the coordinator has accepted last.
        self.committed: int | None = None
        #: The offset after its last record, as the brokers answered last.
        self.high: int | None = None
        #: Whether the partition answered when it was asked last: without a leader it does not.
        self.answers = True
        #: Until when it is certainly this replica's, in seconds of the monotonic clock.
        self.held_until = float("-inf")
        #: When the first commit was asked for, in seconds of the monotonic clock.
        self.committing_since = float("inf")
        #: Records that its users' backlogs list.
        self.backlog = 0
        #: Creates that are under way.
        self.in_flight = 0

    @property
    def position(self) -> int:
        """Every record below this offset is done. Reading must have begun."""
        assert self.tracker is not None
        return self.tracker.position

    def done(self, offset: int) -> None:
        """A record is done. Reading must have begun."""
        assert self.tracker is not None
        self.tracker.done(offset)

    def created(self, offset: int) -> None:
        """The UserUpdate of a record exists. Reading must have begun."""
        assert self.tracker is not None
        self.tracker.created(offset)

    @property
    def lag(self) -> int | None:
        """Records from the position to the end of the partition, as last asked for; None: not known yet."""
        return max(self.high - self.position, 0) if self.high is not None else None


class Partitions:
    """All partitions that are assigned to one group member."""

    def __init__(self) -> None:
        self._held: dict[int, Partition] = {}
        self._waiters: list[asyncio.Future[None]] = []
        #: Revoked, while their last positions are written.
        self._leaving: list[Partition] = []
        #: Why the coordinator refused the last commit; empty: it accepted it, or has not answered.
        self.commit_refused = ""

    def __iter__(self) -> Iterator[Partition]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def get(self, number: int) -> Partition | None:
        return self._held.get(number)

    @property
    def known(self) -> list[Partition]:
        """Partitions with a position to write: those that are read, and revoked ones until that is written."""
        return [partition for partition in (*self._held.values(), *self._leaving) if partition.tracker is not None]

    @property
    def recorded(self) -> dict[int, int]:
        """Positions in the stream's status, which are to be committed."""
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

    def released(self, gone: Iterable[Partition]) -> None:
        """The last positions of these revoked partitions are written, or cannot be."""
        self._leaving = [partition for partition in self._leaving if partition not in set(gone)]

    def committed(self, offsets: Mapping[int, int], sent: float) -> None:
        """The coordinator has accepted a commit, sent at that time of the monotonic clock."""
        self.commit_refused = ""
        for number, offset in offsets.items():
            if partition := self._held.get(number):
                partition.committed = max(offset, partition.committed or 0)
                partition.held_until = max(partition.held_until, sent + HOLD_SECONDS)
        self._wake()

    def uncommitted_for(self, now: float) -> float:
        """Seconds since when the coordinator accepts no commit of some partition. `now` is of the monotonic clock."""
        since = (max(p.held_until - HOLD_SECONDS, p.committing_since) for p in self._held.values())
        return max((now - accepted for accepted in since), default=0.0)

    async def wait_held(self, partition: Partition) -> None:
        """Wait until the partition is certainly this replica's. Raises Lost when it is revoked."""
        while True:
            if partition.revoked:
                raise Lost
            if time.monotonic() < partition.held_until:
                return
            await self._next_change()

    async def creates_ended(self, partitions: Iterable[Partition]) -> None:
        """Wait until no create of these partitions is under way."""
        while any(partition.in_flight for partition in partitions):
            await self._next_change()

    def create_ended(self, partition: Partition) -> None:
        """One of the creates in `in_flight` has ended."""
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
