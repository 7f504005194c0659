"""Pending records: what they mark, and the memory that they take and give back once."""

from __future__ import annotations

import pytest

from controller.api.offset_queue import OffsetQueue
from controller.bridge.backlogs.cache import BacklogCache, BacklogOffset, PartitionQueue
from controller.bridge.partitions import OffsetTracker, Partition
from controller.bridge.pending import Origin, PartitionOffset, PendingRecord, PendingRecords, ReadAhead
from controller.core.records import UpdateEvent, read_record
from tests.support.records import make_record


@pytest.fixture
def partition() -> Partition:
    """Reading of it began at offset 5, and offsets 5, 6 and 7 are in hand."""
    partition = Partition(0)
    partition.tracker = OffsetTracker(5)
    for offset in (5, 6, 7):
        partition.tracker.begin(offset)
    return partition


def pending(origin: Origin, read_ahead: ReadAhead, offset: int, user: str = "ana") -> PendingRecord:
    record = make_record(key=user.encode(), offset=offset)
    event = read_record(record)
    assert isinstance(event, UpdateEvent)
    return PendingRecord(record, event, origin, read_ahead, 0.0)


def read(partition: Partition, read_ahead: ReadAhead, offset: int, user: str = "ana") -> PendingRecord:
    return pending(PartitionOffset(partition, offset), read_ahead, offset, user)


def test_done_moves_the_position_and_gives_the_memory_back_once(partition: Partition) -> None:
    read_ahead = ReadAhead()
    first, second = read(partition, read_ahead, 5), read(partition, read_ahead, 6)
    assert read_ahead.total == first.cost + second.cost
    second.done()
    assert (partition.position, read_ahead.total) == (5, first.cost)
    first.done()
    assert partition.position == 7
    for record in (first, second):
        record.free()
    assert (read_ahead.total, read_ahead.reread) == (0, 0)


def test_a_record_that_is_given_up_gives_its_memory_back_and_keeps_the_position(partition: Partition) -> None:
    read_ahead = ReadAhead()
    record = read(partition, read_ahead, 5)
    for _ in range(2):
        record.free()
    assert (partition.position, read_ahead.total) == (5, 0)


def test_a_user_update_above_the_position_is_counted_until_the_position_has_passed_it(partition: Partition) -> None:
    first, second = (read(partition, ReadAhead(), offset) for offset in (5, 6))
    second.done()
    assert partition.tracker and partition.tracker.created_above == 1
    first.done()
    assert partition.tracker.created_above == 0


def test_a_record_that_was_read_again_leaves_its_backlog_when_it_is_done(partition: Partition) -> None:
    cache, read_ahead = BacklogCache(), ReadAhead()
    cache.load("ana", {}, [PartitionQueue(partition, OffsetQueue([5, 7]))])
    record = pending(BacklogOffset(cache, "ana", partition, 5), read_ahead, 5)
    assert read_ahead.reread == read_ahead.total == record.cost
    record.done()
    (backlog,) = cache
    assert list(backlog.queues[0].offsets) == [7]
    assert (partition.position, read_ahead.total, read_ahead.reread) == (6, 0, 0)


def test_each_user_has_a_queue_in_order(partition: Partition) -> None:
    records = PendingRecords()
    read_ahead = ReadAhead()
    for offset, user in ((5, "ana"), (6, "bo"), (7, "ana")):
        records.append(read(partition, read_ahead, offset, user))
    first = records.pop("ana")
    records.put_back(first)
    assert [records.pop("ana").offset for _ in range(2)] == [5, 7]
    assert "ana" not in records and len(records) == 1
    last = records.pop("bo")
    records.put_back(last)
    records.remove("bo", {first})
    assert "bo" in records
    records.remove("bo", {last})
    assert len(records) == 0
