"""Records that wait in memory to become UserUpdates, each user's in order.

Pure. A user is known by their label here, as in the working set. Two users share a queue, which keeps the order of
both, if somebody has constructed their names so that the labels collide.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from controller.api import names
from controller.bridge.partitions import Partition
from controller.core.records import Record, UpdateEvent
from controller.kafka import record_cost

#: Bytes that the parsed event takes beside its strings.
EVENT_OVERHEAD = 260


class Origin(Protocol):
    """Where a record was read from. `done` is called once, when the record is done."""

    #: The record was read again, as a UserBacklog lists its offset.
    from_backlog: ClassVar[bool]

    @property
    def partition(self) -> Partition:
        """The partition of this replica that is responsible for the record."""
        ...

    def done(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PartitionOffset:
    """An offset that the group member has read, or the first of several that Kafka removed before they were read."""

    from_backlog: ClassVar[bool] = False
    partition: Partition
    offset: int

    def done(self) -> None:
        self.partition.done(self.offset)


class ReadAhead:
    """The approximate bytes of memory of all that was read and is not done: pending records and RejectedEvents."""

    def __init__(self) -> None:
        self.total = 0
        #: The part of it that records take which were fetched from backlogs.
        self.reread = 0


@dataclass(slots=True, eq=False)
class PendingRecord:
    """A good record, read once. It takes memory from the moment it is made until it is `done` or given up: `free`."""

    record: Record
    event: UpdateEvent
    origin: Origin
    read_ahead: ReadAhead
    #: When it was read, by the monotonic clock.
    since: float
    #: Bytes of memory, about; 0 once they are given back.
    cost: int = field(init=False)

    def __post_init__(self) -> None:
        texts = (self.event.profile, self.event.permissions, self.event.resources)
        self._take(record_cost(self.record) + EVENT_OVERHEAD + sum(map(sys.getsizeof, texts)))

    @property
    def user(self) -> str:
        return self.event.user

    @property
    def label(self) -> str:
        """The user's label, by which queues and the working set know the user."""
        return names.user_label(self.event.user)

    @property
    def partition(self) -> Partition:
        return self.origin.partition

    @property
    def offset(self) -> int:
        return self.record.offset

    def done(self) -> None:
        """Its UserUpdate is acknowledged: `position` need not wait for it any more."""
        self.free()
        self.origin.done()
        self.partition.created(self.offset)

    def free(self) -> None:
        """It no longer waits in memory: its partition was revoked, or it is in a backlog or a RejectedEvent now."""
        self._take(-self.cost)

    def _take(self, cost: int) -> None:
        self.cost = max(cost, 0)
        self.read_ahead.total += cost
        if self.origin.from_backlog:
            self.read_ahead.reread += cost


class PendingRecords:
    """A queue of records for each user."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[PendingRecord]] = {}

    def __iter__(self) -> Iterator[tuple[str, deque[PendingRecord]]]:
        return iter(list(self._queues.items()))

    def __len__(self) -> int:
        return len(self._queues)

    def __contains__(self, label: str) -> bool:
        return label in self._queues

    def get(self, label: str) -> deque[PendingRecord] | None:
        return self._queues.get(label)

    def append(self, record: PendingRecord) -> None:
        self._queues.setdefault(record.label, deque()).append(record)

    def pop(self, label: str) -> PendingRecord:
        """Take the first of that user."""
        queue = self._queues[label]
        record = queue.popleft()
        if not queue:
            del self._queues[label]
        return record

    def put_back(self, record: PendingRecord) -> None:
        """A record that was taken is the first of its user again."""
        self._queues.setdefault(record.label, deque()).appendleft(record)

    def remove(self, label: str, records: Collection[PendingRecord]) -> None:
        """Take these records of that user out."""
        kept = deque(record for record in self._queues.get(label, ()) if record not in records)
        if kept:
            self._queues[label] = kept
        else:
            self._queues.pop(label, None)
