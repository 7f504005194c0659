"""Positions of partitions."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from controller.bridge.partitions import OffsetTracker


def test_the_position_is_the_first_that_is_not_done() -> None:
    tracker = OffsetTracker(10)
    for offset in (10, 11, 12):
        assert tracker.begin(offset)
    tracker.done(11)
    assert (tracker.position, tracker.outstanding) == (10, 2)
    tracker.done(10)
    assert tracker.position == 12
    tracker.done(12)
    assert (tracker.position, tracker.outstanding) == (13, 0)


def test_a_gap_does_not_stall_it() -> None:
    tracker = OffsetTracker(0)
    tracker.begin(5)
    assert tracker.position == 5
    tracker.done(5)
    assert tracker.position == 6


def test_at_the_end_of_the_partition_it_is_the_next_offset() -> None:
    tracker = OffsetTracker(0)
    tracker.begin(0)
    tracker.reach(3)  # markers of a transaction
    assert tracker.position == 0
    tracker.done(0)
    assert tracker.position == 3
    tracker.reach(1)
    assert tracker.position == 3


def test_a_record_read_twice_is_one() -> None:
    tracker = OffsetTracker(0)
    assert tracker.begin(0)
    assert not tracker.begin(0)
    tracker.done(0)
    assert not tracker.begin(0)
    assert tracker.position == 1


@given(st.lists(st.integers(0, 10_000), unique=True, min_size=1, max_size=200).map(sorted), st.randoms())
def test_below_the_position_all_are_done_and_it_never_goes_back(offsets: list[int], random: object) -> None:
    tracker = OffsetTracker(0)
    for offset in offsets:
        tracker.begin(offset)
    order = list(offsets)
    random.shuffle(order)  # type: ignore[attr-defined]
    open_, last = set(offsets), 0
    for offset in order:
        tracker.done(offset)
        open_.discard(offset)
        assert tracker.position >= last
        last = tracker.position
        assert all(left >= tracker.position for left in open_)
        assert tracker.position == (min(open_) if open_ else offsets[-1] + 1)


def test_what_is_made_above_the_position_is_counted_until_it_is_passed() -> None:
    tracker = OffsetTracker(0)
    for offset in range(10):
        tracker.begin(offset)
    for offset in (3, 1, 7):
        tracker.done(offset)
        tracker.created(offset)
    tracker.done(5)  # shown, or in a backlog: no object of this one stays behind
    assert tracker.created_above == 3
    for offset in (0, 2):
        tracker.done(offset)
        tracker.created(offset)
    assert (tracker.position, tracker.created_above) == (4, 1)
    tracker.created(1)  # read again from a backlog, below the position
    assert tracker.created_above == 1
    for offset in range(10):
        tracker.done(offset)
    assert tracker.created_above == 0


def test_a_record_that_is_never_done_costs_no_memory_for_those_above_it() -> None:
    tracker = OffsetTracker(0)
    tracker.begin(0)
    tracemalloc.start()
    try:
        for offset in range(1, 200_000):
            tracker.begin(offset)
            tracker.done(offset)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tracker.position, tracker.outstanding) == (0, 1)
    assert grown < 100_000
