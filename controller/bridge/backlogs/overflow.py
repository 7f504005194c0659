"""Users with more waiting than fits: their offsets go into a UserBacklog, so that `position` can move on.

While a user has a backlog every new record of theirs goes behind it; an offset leaves it when its UserUpdate is
acknowledged. This is the bridge's picture of the backlogs; `backlogwriting` brings it into the API server, and only
what is there is done for the partition's tracker.
"""

from __future__ import annotations

import bisect
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from controller.api.offset_queue import OffsetQueue
from controller.api.user_backlog import MAX_CODE, MAX_OFFSETS
from controller.bridge.partitions import Partition, Partitions

#: A change waits so long for others to be written with it: an added offset holds up `position`, one taken nothing.
ADDED_SECONDS = 0.5
TAKEN_SECONDS = 3.0
#: With many backlogs each is written less often: so many a second, but none later than that.
TAKEN_A_SECOND = 20
MAX_TAKEN_SECONDS = 15.0
#: One that another replica's records keep full is read again so often: what makes room there tells nobody here.
CROWDED_SECONDS = 5.0
#: Records of all backlogs that are in memory at a time, and of one user.
WINDOW = 8000
MAX_WINDOW = 200
MIN_WINDOW = 4


@dataclass(slots=True)
class Queue:
    """A user's offsets of one partition."""

    partition: Partition
    offsets: OffsetQueue = field(default_factory=OffsetQueue)
    #: How many of the first ones are in memory.
    loaded: int = 0


@dataclass(frozen=True, slots=True)
class Others:
    """What one user has waiting in partitions that are another replica's, as last read."""

    offsets: int = 0
    #: Bytes of code.
    size: int = 0


@dataclass(slots=True, eq=False)
class Backlog:
    """One user's backlog."""

    user: str
    queues: dict[int, Queue] = field(default_factory=dict)
    #: Offsets that no write has brought into the API server yet.
    unsaved: list[tuple[Partition, int]] = field(default_factory=list)
    #: The object; None while there is none.
    body: dict[str, Any] | None = None
    others: Others = Others()
    #: When the object was last seen, by the monotonic clock.
    looked: float = float("-inf")
    #: When the oldest change that is not written was made; None: there is none.
    added: float | None = None
    taken: float | None = None
    #: A write is under way.
    saving: bool = False
    #: RejectedEvents of records that are gone, by the partition on whose behalf they are shown; until they are written
    #: the object says of which.
    expiring: Counter[Partition] = field(default_factory=Counter)
    #: It was refused, and is not written before this time of the monotonic clock.
    again: float = 0.0

    @property
    def count(self) -> int:
        return sum(len(queue.offsets) for queue in self.queues.values())

    @property
    def full(self) -> bool:
        """The bound is that of a user over all partitions: the object has to fit into the API server as a whole."""
        size = sum(queue.offsets.size for queue in self.queues.values() if len(queue.offsets))
        return self.count + self.others.offsets >= MAX_OFFSETS or size + self.others.size >= MAX_CODE

    def shown(self, partition: Partition) -> None:
        """One of the RejectedEvents of records that are gone is written."""
        self.expiring -= Counter({partition: 1})

    def forget(self, gone: set[Partition]) -> bool:
        """These are another replica's now; whether this was the last that kept the backlog here."""
        theirs = [queue for queue in self.queues.values() if queue.partition in gone]
        touched = bool(theirs) or any(partition in gone for partition in self.expiring)
        self.others = Others(
            self.others.offsets + sum(len(queue.offsets) for queue in theirs),
            self.others.size + sum(queue.offsets.size for queue in theirs),
        )
        self.queues = {n: queue for n, queue in self.queues.items() if queue.partition not in gone}
        self.unsaved = [entry for entry in self.unsaved if entry[0] not in gone]
        self.expiring = Counter({partition: n for partition, n in self.expiring.items() if partition not in gone})
        return touched and not self.queues and not self.expiring

    def due(self, now: float, taken_seconds: float, crowded: bool) -> bool:
        """It is time to write it; or where `crowded`, with records of the user that wait for room, to read it."""
        if self.saving or self.expiring or now < self.again:
            return False
        return (
            (not self.count and not crowded)
            or (crowded and bool(self.others.offsets) and now - self.looked >= CROWDED_SECONDS)
            or (self.added is not None and now - self.added >= ADDED_SECONDS)
            or (self.taken is not None and now - self.taken >= taken_seconds)
        )


class Overflow:
    """The backlogs of one stream, as far as its partitions are this replica's."""

    def __init__(self, partitions: Partitions, done: Callable[[Partition, int], None]) -> None:
        self._partitions = partitions
        #: Called for an offset that need not be remembered by its partition any more.
        self._done = done
        self._backlogs: dict[str, Backlog] = {}
        #: Records of users whose backlog is full, in order: they wait for room.
        self._pending: dict[str, deque[tuple[Partition, int]]] = {}

    def __iter__(self) -> Iterator[Backlog]:
        return iter(list(self._backlogs.values()))

    def __len__(self) -> int:
        return len(self._backlogs)

    def __contains__(self, user: str) -> bool:
        return user in self._backlogs

    @property
    def full(self) -> bool:
        """A user has more waiting than a backlog holds."""
        return bool(self._pending)

    @property
    def unsaved(self) -> int:
        """Offsets in memory alone: not written yet, or without room in their user's backlog."""
        unwritten = sum(len(backlog.unsaved) for backlog in self._backlogs.values())
        return unwritten + sum(len(waiting) for waiting in self._pending.values())

    @property
    def records(self) -> int:
        return sum(backlog.count for backlog in self._backlogs.values())

    def due(self, now: float) -> list[Backlog]:
        """Those that are to be written now, the one with the oldest change first."""
        seconds = min(max(len(self._backlogs) / TAKEN_A_SECOND, TAKEN_SECONDS), MAX_TAKEN_SECONDS)
        due = [backlog for backlog in self if backlog.due(now, seconds, self.crowded(backlog))]
        return sorted(due, key=lambda backlog: min(backlog.added or now, backlog.taken or now))

    def current(self, backlog: Backlog) -> bool:
        """It has not been given up meanwhile."""
        return self._backlogs.get(backlog.user) is backlog

    def crowded(self, backlog: Backlog) -> bool:
        """Records of its user wait for room in it."""
        return backlog.user in self._pending

    def adopt(self, user: str, body: dict[str, Any], queues: Iterable[Queue]) -> Backlog:
        """A backlog that was found in the API server."""
        backlog = self._backlogs.setdefault(user, Backlog(user))
        backlog.body = body
        for queue in queues:
            known = backlog.queues.get(queue.partition.number)
            queue.partition.backlog += len(queue.offsets) - (len(known.offsets) if known else 0)
            backlog.queues[queue.partition.number] = queue
        return backlog

    def seen(self, backlog: Backlog, body: dict[str, Any] | None, others: Others) -> None:
        """The object as it is now, None where there is none, and what of it is other replicas'."""
        backlog.body, backlog.others, backlog.looked = body, others, time.monotonic()
        if self.current(backlog):
            self._refill(backlog.user)

    def append(self, user: str, partition: Partition, offset: int) -> bool:
        """A record goes to the end of that user's backlog, which is made if there is none.

        False where it is to be created straight away: it was read again after a restart, and everything of that user
        before their backlog is a UserUpdate.
        """
        backlog = self._backlogs.setdefault(user, Backlog(user))
        queue = backlog.queues.setdefault(partition.number, Queue(partition))
        if len(queue.offsets) and offset <= queue.offsets.last:
            if offset < queue.offsets.first:
                return False
            self._done(partition, offset)  # it is in the API server already, or it would not have been read again
        elif user in self._pending or backlog.full:
            self._pending.setdefault(user, deque()).append((partition, offset))
        else:
            self._add(backlog, queue, offset)
        return True

    def take(self, user: str, partition: Partition, offset: int) -> None:
        """That record's UserUpdate or RejectedEvent is acknowledged."""
        backlog = self._backlogs.get(user)
        queue = backlog.queues.get(partition.number) if backlog else None
        if backlog is None or queue is None:
            return
        lost = queue.offsets.take(offset)
        partition.backlog -= lost
        queue.loaded = max(queue.loaded - lost, 0)
        self._done(partition, offset)  # before a write has brought it into the API server, where that is refused
        backlog.taken = backlog.taken or time.monotonic()
        self._refill(user)

    def drop(self, backlog: Backlog) -> None:
        """Nothing of this replica's waits in it, and its object is gone or says so.

        A rebalance may have taken it away while that was written, and the user may have another one since.
        """
        if not self.current(backlog) or backlog.count or self.crowded(backlog):
            return
        self.saved(backlog.unsaved)
        del self._backlogs[backlog.user]

    def saved(self, offsets: Iterable[tuple[Partition, int]]) -> None:
        """These are in the API server."""
        for partition, offset in offsets:
            if not partition.revoked:
                self._done(partition, offset)

    def forget(self, partitions: Iterable[Partition]) -> None:
        """These are another replica's now."""
        gone = set(partitions)
        for backlog in self:
            if backlog.forget(gone):
                del self._backlogs[backlog.user]
        for user, waiting in list(self._pending.items()):
            self._pending[user] = deque(entry for entry in waiting if entry[0] not in gone)
            self._refill(user)  # what went away has made room, and perhaps nothing is left that could make any later

    def wanted(self, partition: Partition, below: int | None = None) -> dict[int, str]:
        """The next offsets to be read again from that partition, rising, and whose they are; they count as loaded.

        None at or above `below`, where it is given.
        """
        window = max(min(WINDOW // max(len(self._backlogs), 1), MAX_WINDOW), MIN_WINDOW)
        found: list[tuple[int, str]] = []
        for backlog in self._backlogs.values():
            queue = backlog.queues.get(partition.number)
            if queue is None or queue.loaded > window // 2 or queue.loaded == len(queue.offsets):
                continue
            offsets = queue.offsets.between(queue.loaded, window - queue.loaded)
            if below is not None:
                offsets = offsets[: bisect.bisect_left(offsets, below)]
            queue.loaded += len(offsets)
            found += [(offset, backlog.user) for offset in offsets]
        return dict(sorted(found))

    def unload(self, users: dict[int, str], partition: Partition) -> None:
        """These offsets were wanted and not read after all; they are each user's last ones that count as loaded."""
        for user in users.values():
            if (backlog := self._backlogs.get(user)) and (queue := backlog.queues.get(partition.number)):
                queue.loaded = max(queue.loaded - 1, 0)

    def _add(self, backlog: Backlog, queue: Queue, offset: int) -> None:
        queue.offsets.append(offset)
        queue.partition.backlog += 1
        backlog.unsaved.append((queue.partition, offset))
        backlog.added = backlog.added or time.monotonic()

    def _refill(self, user: str) -> None:
        """Records that waited for room come next."""
        waiting = self._pending.get(user)
        while waiting:
            backlog = self._backlogs.setdefault(user, Backlog(user))
            if backlog.full:
                return
            partition, offset = waiting.popleft()
            self._add(backlog, backlog.queues.setdefault(partition.number, Queue(partition)), offset)
        self._pending.pop(user, None)
