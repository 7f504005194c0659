"""The coding of UserBacklogs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.backlogs import MAX_OFFSETS, OffsetQueue

OFFSETS = st.lists(st.integers(0, 2**53 - 1), unique=True, max_size=200).map(sorted)


@given(OFFSETS)
def test_what_is_coded_is_read_back(offsets: list[int]) -> None:
    queue = OffsetQueue.decode(OffsetQueue(offsets).encode())
    assert list(queue) == offsets
    assert len(queue) == len(offsets)
    if offsets:
        assert (queue.first, queue.last) == (offsets[0], offsets[-1])


@given(OFFSETS, st.randoms())
def test_taken_in_any_order_nothing_is_left(offsets: list[int], random: object) -> None:
    queue, order = OffsetQueue(offsets), list(offsets)
    random.shuffle(order)  # type: ignore[attr-defined]
    lost = 0
    for number, offset in enumerate(order, 1):
        lost += queue.take(offset)
        left = set(order[number:])
        assert (queue.first == min(left)) if left else not len(queue)
    assert lost == len(offsets)


@given(OFFSETS, OFFSETS)
def test_a_queue_that_was_empty_goes_on(first: list[int], second: list[int]) -> None:
    queue = OffsetQueue(first)
    for offset in first:
        queue.take(offset)
    for offset in second:
        queue.append(offset)
    assert list(OffsetQueue.decode(queue.encode())) == second


@given(st.text(max_size=40))
def test_garbage_is_refused_with_a_value_error(text: str) -> None:
    try:
        queue = OffsetQueue.decode(text)
    except ValueError:
        return
    assert list(OffsetQueue.decode(queue.encode())) == list(queue)


def test_offsets_must_rise() -> None:
    queue = OffsetQueue([5])
    for offset in (5, 4, -1, 2**53):
        with pytest.raises(ValueError):
            queue.append(offset)
    with pytest.raises(ValueError):
        _ = OffsetQueue().first


def test_twenty_thousand_neighbours_take_twenty_kilobytes() -> None:
    queue = OffsetQueue(range(10**12, 10**12 + MAX_OFFSETS))
    assert queue.full
    assert len(queue.encode()) < 28_000


def test_far_apart_they_fit_the_object_all_the_same() -> None:
    queue = OffsetQueue()
    for number in range(MAX_OFFSETS):
        if queue.full:
            break
        queue.append(number * 400_000_000_000)
    assert len(queue.encode()) < 200_000


def test_a_window_is_read_without_what_is_loaded() -> None:
    queue = OffsetQueue(range(100, 200))
    assert queue.between(10, 3) == [110, 111, 112]
    queue.take(100)
    assert queue.between(10, 3) == [111, 112, 113]


def test_taking_from_the_front_frees_the_memory() -> None:
    queue = OffsetQueue(range(MAX_OFFSETS))
    for offset in range(MAX_OFFSETS - 1):
        queue.take(offset)
    assert queue.size < 4200
