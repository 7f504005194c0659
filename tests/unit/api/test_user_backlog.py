"""The coding of UserBacklogs."""

from __future__ import annotations

import base64
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.offset_queue import OffsetQueue
from controller.api.user_backlog import MAX_CODE, MAX_OFFSETS, offsets_in_entry, read_entry

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


def read_one_by_one(code: bytes) -> list[int] | None:
    """What the code says, digit by digit; None where it is not a code of rising offsets."""
    numbers, digits = [], 0
    number = 0
    for digit in code:
        number |= (digit & 0x7F) << (7 * digits)
        digits += 1
        if digit < 0x80:
            numbers.append(number)
            number = digits = 0
        elif digits == 9:
            return None
    offsets = list(accumulate(numbers))
    rising = all(low < high for low, high in pairwise(offsets))
    return offsets if rising and not digits and (not offsets or offsets[-1] < 2**53) else None


#: Mostly short numbers, with what may go wrong between them.
CODES = st.lists(
    st.one_of(st.binary(max_size=3), st.sampled_from([b"\x00", b"\x80\x00", b"\x01", b"\xff" * 8, b"\x81" * 9])),
    max_size=12,
).map(b"".join)


@given(CODES)
def test_whatever_the_code_it_is_read_as_digit_by_digit(code: bytes) -> None:
    text, expected = base64.b64encode(code).decode(), read_one_by_one(code)
    if expected is None:
        for read in (read_entry, lambda entry: offsets_in_entry(entry, {1})):
            with pytest.raises(ValueError):
                read({"offsets": text})
        return
    queue = OffsetQueue.decode(text)
    assert list(queue) == expected
    assert len(queue) == len(expected)
    assert not expected or (queue.first, queue.last) == (expected[0], expected[-1])


@given(OFFSETS, st.sets(st.integers(0, 2**53 - 1), max_size=5))
def test_which_of_some_offsets_are_listed(offsets: list[int], others: set[int]) -> None:
    text, asked = OffsetQueue(offsets).encode(), {*offsets[::2], *others}
    assert offsets_in_entry({"offsets": text}, asked) == asked & set(offsets)


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        pytest.param({"count": 3, "first": 5, "last": 900}, "", id="as it was written"),
        pytest.param({}, "", id="no numbers"),
        pytest.param({"count": 2}, "count", id="another count"),
        pytest.param({"first": 4}, "first", id="another first"),
        pytest.param({"count": 3, "first": 5, "last": 7}, "last", id="another last"),
        pytest.param({"count": 3, "offsets": ""}, "count", id="no offsets"),
        pytest.param({"count": 3, "first": 5, "last": 900, "offsets": "BAQE"}, "first", id="other offsets"),
    ],
)
def test_an_entry_whose_numbers_disagree_is_damaged(told: dict[str, Any], wrong: str) -> None:
    """Most of what somebody may type is a code too: other records would be made, and those that waited be lost."""
    entry = {"offsets": OffsetQueue([5, 7, 900]).encode()} | told
    if not wrong:
        assert list(read_entry(entry)) == [5, 7, 900] and offsets_in_entry(entry, {6, 7}) == {7}
        return
    for read in (read_entry, lambda entry: offsets_in_entry(entry, {7})):
        with pytest.raises(ValueError, match=wrong):
            read(entry)


@given(OFFSETS, OFFSETS)
def test_what_was_read_is_added_to_and_taken_from(offsets: list[int], later: list[int]) -> None:
    queue = OffsetQueue.decode(OffsetQueue(offsets).encode())
    behind = [offset for offset in later if not offsets or offset > offsets[-1]]
    for offset in behind:
        queue.append(offset)
    for offset in offsets[::2]:
        queue.take(offset)
    left = [*offsets, *behind][1:] if offsets else behind
    assert list(OffsetQueue.decode(queue.encode())) == left


def test_offsets_must_rise() -> None:
    queue = OffsetQueue([5])
    for offset in (5, 4, -1, 2**53):
        with pytest.raises(ValueError):
            queue.append(offset)
    with pytest.raises(ValueError):
        _ = OffsetQueue().first


def test_twenty_thousand_neighbours_take_twenty_kilobytes() -> None:
    queue = OffsetQueue(range(10**12, 10**12 + MAX_OFFSETS))
    assert len(queue.encode()) < 28_000


def test_far_apart_they_fit_the_object_all_the_same() -> None:
    queue = OffsetQueue()
    for number in range(MAX_OFFSETS):
        if queue.size >= MAX_CODE:
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
