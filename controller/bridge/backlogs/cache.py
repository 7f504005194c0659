"""The backlogs of one stream in memory, as far as its partitions are assigned to this replica.

This is a cache that is written back: a change is made here first, and `writer` brings it into the API server later.
The partition forgets an offset, so that its position may move on, only when the write is acknowledged.

While a user has a backlog every new record of theirs goes behind it. An offset leaves the backlog when its UserUpdate
is acknowledged.
"""

from __future__ import annotations

import bisect
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from controller.api.offset_queue import OffsetQueue
from controller.api.user_backlog import MAX_CODE, MAX_OFFSETS
from controller.bridge.partitions import Partition

#: Seconds for which a change waits for others to be written with it. An appended offset holds up `position`; one that
#: was removed holds up nothing.
APPENDED_SECONDS = 0.5
REMOVED_SECONDS = 3.0
#: Where there are many backlogs, each is written less often: so many of them a second, but each within so many seconds.
REMOVED_A_SECOND = 20
MAX_REMOVED_SECONDS = 15.0
#: A full backlog is read again so often while records wait for room in it: another replica may have made room.
FULL_SECONDS = 5.0
#: Records of all backlogs that are in memory at a time, and the most and the least of one user.
WINDOW = 8000
MAX_WINDOW = 200
MIN_WINDOW = 4


@dataclass(slots=True)
class PartitionQueue:
    """A user's offsets of one partition."""

    partition: Partition
    offsets: OffsetQueue = field(default_factory=OffsetQueue)
    #: How many of the first offsets have been fetched, or are being fetched: their records are in memory.
    loaded: int = 0


@dataclass(frozen=True, slots=True)
class OtherReplicas:
    """How much an object listed for partitions of other replicas when it was read last."""

    offsets: int = 0
    #: Bytes of code.
    size: int = 0


@dataclass(slots=True, eq=False)
class Backlog:
    """One user's backlog. Times are of the monotonic clock."""

    user: str
    queues: dict[int, PartitionQueue] = field(default_factory=dict)
    #: Offsets that no acknowledged write has.
    unwritten: list[tuple[Partition, int]] = field(default_factory=list)
    #: The object in the API server, as last seen; None: there is none.
    body: dict[str, Any] | None = None
    others: OtherReplicas = OtherReplicas()
    #: When the object was seen last.
    seen_at: float = float("-inf")
    #: When the oldest change was made that is not written; None: there is none.
    appended_at: float | None = None
    removed_at: float | None = None
    #: A write is under way.
    writing: bool = False
    #: RejectedEvents that are still to be written for records of a deleted topic, by the partition whose replica
    #: writes them. Until they are written the object lists these records, and is not changed.
    expired: Counter[Partition] = field(default_factory=Counter)
    #: A write was refused, and is not tried again before this time.
    retry_at: float = 0.0

    @property
    def count(self) -> int:
        """Offsets of this replica's partitions."""
        return sum(len(queue.offsets) for queue in self.queues.values())

    @property
    def full(self) -> bool:
        """Whether it takes no further offset. All partitions count, as they are in one object."""
        size = sum(queue.offsets.size for queue in self.queues.values() if len(queue.offsets))
        return self.count + self.others.offsets >= MAX_OFFSETS or size + self.others.size >= MAX_CODE

    def expired_written(self, partition: Partition) -> None:
        """One of the RejectedEvents in `expired` is acknowledged."""
        self.expired -= Counter({partition: 1})

    def revoke(self, revoked: set[Partition]) -> bool:
        """These partitions are another replica's now. True where nothing keeps the backlog in this replica any more."""
        theirs = [queue for queue in self.queues.values() if queue.partition in revoked]
        touched = bool(theirs) or any(partition in revoked for partition in self.expired)
        self.others = OtherReplicas(
            self.others.offsets + sum(len(queue.offsets) for queue in theirs),
            self.others.size + sum(queue.offsets.size for queue in theirs),
        )
        self.queues = {n: queue for n, queue in self.queues.items() if queue.partition not in revoked}
        self.unwritten = [entry for entry in self.unwritten if entry[0] not in revoked]
        self.expired = Counter({partition: n for partition, n in self.expired.items() if partition not in revoked})
        return touched and not self.queues and not self.expired

    def due(self, now: float, removed_seconds: float, waited_for: bool) -> bool:
        """Whether it is to be written now or, where records wait for room in it (`waited_for`), to be read again."""
        if self.writing or self.expired or now < self.retry_at:
            return False
        return (
            (not self.count and not waited_for)
            or (waited_for and bool(self.others.offsets) and now - self.seen_at >= FULL_SECONDS)
            or (self.appended_at is not None and now - self.appended_at >= APPENDED_SECONDS)
            or (self.removed_at is not None and now - self.removed_at >= removed_seconds)
        )


class BacklogCache:
    """All backlogs of one stream, by user."""

    def __init__(self) -> None:
        self._backlogs: dict[str, Backlog] = {}
        #: Records of users whose backlog is full, in order.
        self._waiting: dict[str, deque[tuple[Partition, int]]] = {}

    def __iter__(self) -> Iterator[Backlog]:
        return iter(list(self._backlogs.values()))

    def __len__(self) -> int:
        return len(self._backlogs)

    def __contains__(self, user: str) -> bool:
        return user in self._backlogs

    @property
    def full(self) -> bool:
        """Some user has more records waiting than a backlog holds."""
        return bool(self._waiting)

    @property
    def unwritten(self) -> int:
        """Offsets that are in memory alone: not written yet, or waiting for room in a full backlog."""
        unwritten = sum(len(backlog.unwritten) for backlog in self._backlogs.values())
        return unwritten + sum(len(waiting) for waiting in self._waiting.values())

    @property
    def records(self) -> int:
        return sum(backlog.count for backlog in self._backlogs.values())

    def due(self, now: float) -> list[Backlog]:
        """The backlogs that are to be written now, the one with the oldest change first."""
        seconds = min(max(len(self._backlogs) / REMOVED_A_SECOND, REMOVED_SECONDS), MAX_REMOVED_SECONDS)
        due = [backlog for backlog in self if backlog.due(now, seconds, self.waited_for(backlog))]
        return sorted(due, key=lambda backlog: min(backlog.appended_at or now, backlog.removed_at or now))

    def has(self, backlog: Backlog) -> bool:
        """This very backlog is still in the cache: its user may have another one since."""
        return self._backlogs.get(backlog.user) is backlog

    def waited_for(self, backlog: Backlog) -> bool:
        """Whether it is full, and records of its user wait for room in it."""
        return backlog.user in self._waiting

    def load(self, user: str, body: dict[str, Any], queues: Iterable[PartitionQueue]) -> Backlog:
        """Add what was found in the API server."""
        backlog = self._backlogs.setdefault(user, Backlog(user))
        backlog.body = body
        for queue in queues:
            known = backlog.queues.get(queue.partition.number)
            queue.partition.backlog += len(queue.offsets) - (len(known.offsets) if known else 0)
            backlog.queues[queue.partition.number] = queue
        return backlog

    def observe(self, backlog: Backlog, body: dict[str, Any] | None, others: OtherReplicas) -> None:
        """The object as it is now, None where there is none, and what it lists for other replicas."""
        backlog.body, backlog.others, backlog.seen_at = body, others, time.monotonic()
        if self.has(backlog):
            self._append_waiting(backlog.user)

    def append(self, user: str, partition: Partition, offset: int) -> bool:
        """Put a record behind all others of that user's backlog, which is begun if there is none.

        False where a UserUpdate is to be created at once: the record was read again after a restart, and lies before
        the whole backlog. Then all records of the user before the backlog have their UserUpdates.
        """
        backlog = self._backlogs.setdefault(user, Backlog(user))
        queue = backlog.queues.setdefault(partition.number, PartitionQueue(partition))
        if len(queue.offsets) and offset <= queue.offsets.last:
            if offset < queue.offsets.first:
                return False
            partition.done(offset)  # the API server lists it, or it would not have been read again
        elif user in self._waiting or backlog.full:
            self._waiting.setdefault(user, deque()).append((partition, offset))
        else:
            self._append(backlog, queue, offset)
        return True

    def remove(self, user: str, partition: Partition, offset: int) -> None:
        """The UserUpdate or RejectedEvent of that record is acknowledged."""
        backlog = self._backlogs.get(user)
        queue = backlog.queues.get(partition.number) if backlog else None
        if backlog is None or queue is None:
            return
        removed = queue.offsets.take(offset)
        partition.backlog -= removed
        queue.loaded = max(queue.loaded - removed, 0)
        partition.done(offset)  # perhaps no write has had it, as where all writes are refused
        backlog.removed_at = backlog.removed_at or time.monotonic()
        self._append_waiting(user)

    def discard(self, backlog: Backlog) -> None:
        """Its object is gone, or lists nothing of this replica's: leave it out, unless there is something to write.

        A rebalance may have taken it out while that was written, and its user may have another one since.
        """
        if not self.has(backlog) or backlog.count or self.waited_for(backlog):
            return
        self.written(backlog.unwritten)
        del self._backlogs[backlog.user]

    def written(self, offsets: Iterable[tuple[Partition, int]]) -> None:
        """A write with these offsets is acknowledged."""
        for partition, offset in offsets:
            if not partition.revoked:
                partition.done(offset)

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """These partitions are another replica's now."""
        revoked = set(partitions)
        for backlog in self:
            if backlog.revoke(revoked):
                del self._backlogs[backlog.user]
        for user, waiting in list(self._waiting.items()):
            self._waiting[user] = deque(entry for entry in waiting if entry[0] not in revoked)
            self._append_waiting(user)  # the revocation has made room, and perhaps nothing else will

    def next_offsets(self, partition: Partition, below: int | None = None) -> dict[int, str]:
        """The next offsets of that partition to be fetched, rising, and their users. They count as loaded.

        With `below`, only offsets below it.
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

    def not_fetched(self, users: dict[int, str], partition: Partition) -> None:
        """These offsets, of `next_offsets`, were not fetched after all. They are the last loaded ones of each user."""
        for user in users.values():
            if (backlog := self._backlogs.get(user)) and (queue := backlog.queues.get(partition.number)):
                queue.loaded = max(queue.loaded - 1, 0)

    def _append(self, backlog: Backlog, queue: PartitionQueue, offset: int) -> None:
        queue.offsets.append(offset)
        queue.partition.backlog += 1
        backlog.unwritten.append((queue.partition, offset))
        backlog.appended_at = backlog.appended_at or time.monotonic()

    def _append_waiting(self, user: str) -> None:
        """Append those records that waited for room, as far as there is room now."""
        waiting = self._waiting.get(user)
        while waiting:
            backlog = self._backlogs.setdefault(user, Backlog(user))
            if backlog.full:
                return
            partition, offset = waiting.popleft()
            self._append(backlog, backlog.queues.setdefault(partition.number, PartitionQueue(partition)), offset)
        self._waiting.pop(user, None)


@dataclass(frozen=True, slots=True)
class BacklogOffset:
    """The origin of a record that was fetched from a backlog, or that Kafka has removed while it waited in one."""

    from_backlog: ClassVar[bool] = True
    cache: BacklogCache
    user: str
    partition: Partition
    offset: int

    def done(self) -> None:
        self.cache.remove(self.user, self.partition, self.offset)
