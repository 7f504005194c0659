"""How controllers share the Leases of all streams: evenly, in one round, and without moving more than necessary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.core.lease_quotas import FEWER_FIRST_SECONDS, RELUCTANT_SECONDS, patience, quotas, surplus

#: Leases by controller, some of which have begun just now.
HELD = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.integers(0, 150), min_size=1, max_size=8)
FREE = st.integers(0, 50)


def moved(held: dict[str, int], total: int) -> dict[str, int]:
    """Each gives away its surplus; then each takes free ones, whoever is under its quota."""
    after = {each: count - surplus(each, held, total) for each, count in held.items()}
    free = total - sum(after.values())
    while free > 0:
        part = quotas(after, total)
        taker = next((each for each in sorted(after) if after[each] < part[each]), None)
        assert taker is not None, "somebody is to have each"
        after[taker] += 1
        free -= 1
    return after


@given(HELD, FREE)
def test_the_quotas_are_the_whole_and_differ_by_one(held: dict[str, int], free: int) -> None:
    total = sum(held.values()) + free
    found = quotas(held, total)
    assert found.keys() == held.keys()
    assert sum(found.values()) == total
    assert max(found.values()) - min(found.values()) <= 1


@given(HELD)
def test_one_round_makes_it_even_and_the_next_moves_nothing(held: dict[str, int]) -> None:
    total = sum(held.values())
    after = moved(held, total)
    assert sum(after.values()) == total
    assert max(after.values()) - min(after.values()) <= 1 + total // len(held) // 10
    assert moved(after, total) == after, "no ping-pong"


@given(HELD)
def test_nobody_gives_more_than_has_to_move(held: dict[str, int]) -> None:
    total = sum(held.values())
    given_away = sum(surplus(each, held, total) for each in held)
    lacking = sum(max(0, part - held[each]) for each, part in quotas(held, total).items())
    assert given_away in (0, lacking)


@given(HELD, FREE)
def test_who_has_its_part_leaves_a_free_one_to_who_has_not_but_not_for_long(held: dict[str, int], free: int) -> None:
    total = sum(held.values()) + free
    part = quotas(held, total)
    waits = {each: patience(each, held, total) for each in held}
    assert max(waits.values()) <= RELUCTANT_SECONDS + FEWER_FIRST_SECONDS
    if len(held) > 1:
        assert all(waits[each] >= RELUCTANT_SECONDS for each in held if held[each] >= part[each])
        assert all(waits[each] < FEWER_FIRST_SECONDS for each in held if held[each] < part[each])


def test_a_hundred_leases_and_three_controllers() -> None:
    assert quotas({"a": 100, "b": 0, "c": 0}, 100) == {"a": 34, "b": 33, "c": 33}
    assert surplus("a", {"a": 100, "b": 0, "c": 0}, 100) == 66
    assert surplus("a", {"a": 54, "b": 46, "c": 0}, 100) == 20
    assert surplus("a", {"a": 36, "b": 32, "c": 32}, 100) == 0, "not worth a pause of two streams"
    assert surplus("a", {"a": 37, "b": 32, "c": 31}, 100) == 3


def test_few_leases_are_spread_to_the_last() -> None:
    assert surplus("a", {"a": 2, "b": 2, "c": 0}, 4) == 0
    assert surplus("b", {"a": 2, "b": 2, "c": 0}, 4) == 1
    assert surplus("a", {"a": 1, "b": 0}, 1) == 0


def test_alone_nothing_is_left_to_others() -> None:
    assert patience("a", {"a": 0}, 100) == patience("a", {"a": 100}, 100) == 0
