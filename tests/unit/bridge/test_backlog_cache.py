"""The cache of backlogs."""

from __future__ import annotations

from controller.api.offset_queue import OffsetQueue
from controller.api.user_backlog import MAX_CODE, MAX_OFFSETS
from controller.bridge.backlogs.cache import (
    APPENDED_SECONDS,
    FULL_SECONDS,
    MAX_WINDOW,
    BacklogCache,
    OtherReplicas,
    PartitionQueue,
)
from controller.bridge.partitions import OffsetTracker, Partition


class TrackedPartition(Partition):
    """`offsets` are those that it was told are done."""

    def __init__(self, number: int, offsets: list[int]) -> None:
        super().__init__(number)
        self.tracker = OffsetTracker(0)
        self.offsets = offsets

    def done(self, offset: int) -> None:
        self.offsets.append(offset)


class Bench:
    """One partition; `done` are the offsets that it was told are done."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.partition = TrackedPartition(0, self.done)
        self.cache = BacklogCache()

    def append(self, *offsets: int) -> list[bool]:
        return [self.cache.append("ana", self.partition, offset) for offset in offsets]

    def save(self) -> None:
        """What a write does when it is acknowledged."""
        (backlog,) = self.cache
        saved, backlog.unwritten, backlog.appended_at = backlog.unwritten, [], None
        self.cache.written(saved)


def test_an_offset_is_done_when_it_is_saved_and_not_before() -> None:
    bench = Bench()
    bench.append(1, 2)
    assert bench.done == []
    bench.save()
    bench.append(3)
    assert bench.done == [1, 2]


def test_a_partition_knows_how_many_of_its_records_are_put_aside() -> None:
    bench = Bench()
    bench.cache.load("bo", {}, [PartitionQueue(bench.partition, OffsetQueue([5, 7]))])
    bench.cache.load("bo", {}, [PartitionQueue(bench.partition, OffsetQueue([5, 7, 9]))])
    bench.append(1, 2, 3)
    assert bench.partition.backlog == bench.cache.records == 6
    for offset, left in ((2, 6), (1, 4), (8, 4)):
        bench.cache.remove("ana", bench.partition, offset)
        assert bench.partition.backlog == bench.cache.records == left


def test_what_is_read_again_after_a_restart_is_in_it_already() -> None:
    bench = Bench()
    bench.cache.load("ana", {}, [PartitionQueue(bench.partition, OffsetQueue([5, 7, 9]))])
    assert bench.append(5, 7, 9) == [True] * 3
    assert bench.done == [5, 7, 9]
    # Before it: its UserUpdate was acknowledged before the backlog was made.
    assert bench.append(4) == [False]
    assert bench.append(10) == [True]
    (backlog,) = bench.cache
    assert list(backlog.queues[0].offsets) == [5, 7, 9, 10]


def test_a_window_is_wanted_and_refilled() -> None:
    bench = Bench()
    bench.append(*range(1000))
    first = bench.cache.next_offsets(bench.partition)
    assert list(first) == list(range(MAX_WINDOW))
    assert bench.cache.next_offsets(bench.partition) == {}
    for offset in range(MAX_WINDOW // 2):
        bench.cache.remove("ana", bench.partition, offset)
    assert list(bench.cache.next_offsets(bench.partition)) == list(range(MAX_WINDOW, MAX_WINDOW + MAX_WINDOW // 2))


def test_what_could_not_be_read_is_wanted_again() -> None:
    bench = Bench()
    bench.append(1, 2, 3)
    wanted = bench.cache.next_offsets(bench.partition)
    del wanted[1]
    bench.cache.not_fetched(wanted, bench.partition)
    assert list(bench.cache.next_offsets(bench.partition)) == [2, 3]


def test_offsets_of_all_users_are_wanted_in_their_order() -> None:
    bench = Bench()
    bench.append(1, 4)
    bench.cache.append("bo", bench.partition, 2)
    bench.cache.append("bo", bench.partition, 3)
    assert bench.cache.next_offsets(bench.partition) == {1: "ana", 2: "bo", 3: "bo", 4: "ana"}


def test_beyond_its_bound_records_wait_for_room_in_order() -> None:
    bench = Bench()
    bench.append(*range(MAX_OFFSETS + 2))
    assert bench.cache.full
    (backlog,) = bench.cache
    assert backlog.count == MAX_OFFSETS
    for offset in (0, 1):
        bench.cache.remove("ana", bench.partition, offset)
    assert not bench.cache.full
    assert backlog.queues[0].offsets.last == MAX_OFFSETS + 1


def test_it_is_written_when_changes_have_waited_and_removed_when_it_is_empty() -> None:
    bench = Bench()
    bench.append(1)
    (backlog,) = bench.cache
    assert backlog.appended_at is not None
    assert bench.cache.due(backlog.appended_at) == []
    assert bench.cache.due(backlog.appended_at + APPENDED_SECONDS) == [backlog]
    bench.cache.remove("ana", bench.partition, 1)
    assert bench.cache.due(backlog.appended_at) == [backlog]
    assert bench.done == [1], "it is a UserUpdate, be the backlog written or not"
    bench.cache.discard(backlog)
    assert set(bench.done) == {1}
    assert "ana" not in bench.cache


def test_revoked_partitions_are_another_replicas() -> None:
    bench = Bench()
    bench.append(1)
    bench.cache.revoke([bench.partition])
    assert "ana" not in bench.cache
    assert bench.done == []


class Two(Bench):
    """A second partition."""

    def __init__(self) -> None:
        super().__init__()
        self.other = TrackedPartition(1, self.done)

    def add(self, partition: Partition, count: int) -> None:
        for offset in range(count):
            assert self.cache.append("ana", partition, offset)


def test_the_bound_is_that_of_a_user_over_all_partitions() -> None:
    """With one for each partition an object of sixteen came near to what etcd takes."""
    bench = Two()
    bench.add(bench.partition, MAX_OFFSETS - 2)
    bench.add(bench.other, 3)
    (backlog,) = bench.cache
    assert backlog.count == MAX_OFFSETS
    assert bench.cache.full
    bench.cache.remove("ana", bench.partition, 0)
    assert list(backlog.queues[1].offsets) == [0, 1, 2]
    assert not bench.cache.full


def test_other_replicas_records_of_the_user_count() -> None:
    for others in (OtherReplicas(MAX_OFFSETS - 1, 20_000), OtherReplicas(10, MAX_CODE - 10)):
        bench = Bench()
        bench.append(1)
        (backlog,) = bench.cache
        bench.cache.observe(backlog, {}, others)
        bench.append(2)
        assert backlog.count == 1
        assert bench.cache.full


def test_room_that_other_replicas_make_is_looked_for() -> None:
    bench = Bench()
    bench.append(1)
    (backlog,) = bench.cache
    bench.cache.observe(backlog, {}, OtherReplicas(MAX_OFFSETS, 20_000))
    bench.append(2)
    bench.cache.remove("ana", bench.partition, 1)
    backlog.appended_at = backlog.removed_at = None
    # Nothing of its own is left in it, and it stays, as records wait for room.
    bench.cache.discard(backlog)
    assert bench.cache.has(backlog)
    assert bench.cache.due(backlog.seen_at) == []
    assert bench.cache.due(backlog.seen_at + FULL_SECONDS) == [backlog]
    bench.cache.observe(backlog, {}, OtherReplicas(5, 5))
    assert list(backlog.queues[0].offsets) == [2]
    assert not bench.cache.full


def test_a_revoked_partition_makes_room_for_what_waits_in_another() -> None:
    """Nothing else makes room for those that wait: no record of that partition is in the backlog."""
    bench = Two()
    bench.add(bench.partition, MAX_OFFSETS)
    bench.add(bench.other, 2)
    assert bench.cache.full
    bench.partition.revoked = True
    bench.cache.revoke([bench.partition])
    (backlog,) = bench.cache
    # What was given up is the next owner's, and counts as theirs until it is seen again.
    bench.cache.observe(backlog, None, OtherReplicas())
    assert list(backlog.queues[1].offsets) == [0, 1]
    assert not bench.cache.full


def test_a_backlog_that_was_given_up_while_it_was_removed_is_gone_already() -> None:
    """A rebalance in between ended the whole consumption."""
    bench = Bench()
    bench.append(1)
    (backlog,) = bench.cache
    bench.cache.remove("ana", bench.partition, 1)
    bench.cache.revoke([bench.partition])
    bench.cache.discard(backlog)
    assert len(bench.cache) == 0


def test_another_backlog_of_the_user_is_not_taken_for_the_one_that_was_removed() -> None:
    bench = Two()
    bench.append(1)
    (old,) = bench.cache
    bench.cache.remove("ana", bench.partition, 1)
    bench.cache.revoke([bench.partition])
    bench.cache.append("ana", bench.other, 7)
    bench.cache.discard(old)
    (new,) = bench.cache
    assert list(new.queues[1].offsets) == [7]
    assert bench.done == [1]


def test_records_that_are_gone_are_shown_by_the_next_owner_of_their_partition() -> None:
    bench = Two()
    backlog = bench.cache.load("ana", {}, [PartitionQueue(bench.other, OffsetQueue([3]))])
    backlog.expired.update([bench.partition])
    backlog.removed_at = 0.0
    assert bench.cache.due(100.0) == []
    bench.cache.revoke([bench.partition])
    assert bench.cache.due(100.0) == [backlog]
    backlog.expired_written(bench.partition)  # written all the same
    assert bench.cache.due(100.0) == [backlog]


def test_only_what_lies_below_is_wanted_where_that_is_said() -> None:
    bench = Bench()
    bench.append(1, 5, 9)
    assert list(bench.cache.next_offsets(bench.partition, below=5)) == [1]
    assert bench.cache.next_offsets(bench.partition, below=5) == {}
    assert list(bench.cache.next_offsets(bench.partition)) == [5, 9]


def test_a_refused_backlog_is_not_due_before_its_time() -> None:
    bench = Bench()
    bench.append(1)
    (backlog,) = bench.cache
    late = (backlog.appended_at or 0.0) + APPENDED_SECONDS
    backlog.retry_at = late + 1
    assert bench.cache.due(late) == []
    assert bench.cache.due(late + 1) == [backlog]


def test_what_is_in_memory_alone_is_counted() -> None:
    bench = Bench()
    bench.append(*range(MAX_OFFSETS + 5))
    assert bench.cache.unwritten == MAX_OFFSETS + 5
    bench.save()
    assert bench.cache.unwritten == 5
