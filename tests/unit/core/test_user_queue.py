"""The order within one user, held against the contract: by sequence within a source, by time between sources."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.api.user_update import UserUpdate
from controller.api.user_update_status import BEFORE_THE_FIRST_CALL, Phase, Reason, Status
from controller.core.user_queue import UserQueue
from tests.support.builders import NOW, at, make_queue, make_update
from tests.support.records import OTHER_TOPIC_ID, TOPIC_ID

RUNNING = Status(phase=Phase.RUNNING, step="permissions", reason=Reason.RUNNING, transition_time=NOW)
WAITING = replace(RUNNING, phase=Phase.WAITING, reason=Reason.DOWNSTREAM_BUSY)


def drained(queue: UserQueue) -> list[UserUpdate]:
    """The updates in the order in which they come to the head, each finished in its turn."""
    order = []
    while head := queue.head:
        order.append(head)
        queue.take(head.name)
        queue.remove(head.name)
    return order


def sequences(updates: Iterable[UserUpdate]) -> list[int]:
    return [update.spec.sequence for update in updates]


def source(update: UserUpdate) -> str:
    """Told apart by the words of the contract, not by the code under test."""
    record = update.spec.source
    return f"{record.topic_id}/{record.partition}" if record else "manual"


def assert_in_sequence(updates: list[UserUpdate]) -> None:
    """Within each source the sequences never fall, and those of records, which are offsets, strictly rise."""
    for one in {source(update) for update in updates}:
        order = [update for update in updates if source(update) == one]
        for earlier, later in pairwise(order):
            before, after = earlier.spec.sequence, later.spec.sequence
            assert before < after or (one == "manual" and before == after), f"{earlier.name} came before {later.name}"


def test_an_empty_queue_has_no_head() -> None:
    queue = make_queue()
    assert queue.head is None
    assert len(queue) == 0
    assert list(queue) == []
    assert queue.get("anything") is None


def test_within_a_source_sequence_decides_and_not_arrival_time_or_name() -> None:
    late = make_update(sequence=1, time=at(50), name="z")
    early = make_update(sequence=7, time=at(-50), name="a")
    assert drained(make_queue(early, late)) == [late, early]


def test_sequences_are_numbers_and_not_text() -> None:
    updates = [make_update(sequence=sequence) for sequence in (100, 2**53 - 1, 20, 3, 0)]
    assert sequences(drained(make_queue(*updates))) == [0, 3, 20, 100, 2**53 - 1]


def test_gaps_are_no_reason_to_wait() -> None:
    assert sequences(drained(make_queue(*(make_update(sequence=n) for n in (90, 4, 17))))) == [4, 17, 90]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (make_update(sequence=900, time=at(1)), make_update(sequence=1, time=at(2), partition=1)),
        (make_update(sequence=900, time=at(1)), make_update(sequence=1, time=at(2), topic_id=OTHER_TOPIC_ID)),
        (make_update(sequence=900, time=at(1)), make_update(sequence=1, time=at(2), manual=True)),
        (make_update(sequence=900, time=at(1), manual=True), make_update(sequence=1, time=at(2))),
        (
            make_update(sequence=9, topic_id=OTHER_TOPIC_ID, name="z", time=at(1)),
            make_update(sequence=1, topic_id=TOPIC_ID, name="a", time=at(1)),
        ),
        (
            make_update(sequence=9, partition=1, name="z", time=at(1)),
            make_update(sequence=1, partition=2, name="a", time=at(1)),
        ),
        (
            make_update(sequence=9, partition=10, name="z", time=at(1)),
            make_update(sequence=1, partition=9, name="a", time=at(1)),
        ),
    ],
    ids=[
        "the earlier record of two partitions",
        "the earlier record of two topics of one name",
        "the record before what was applied later",
        "what was applied before the record",
        "at the same time the topic id first in the alphabet",
        "at the same time the partition's text first in the alphabet",
        "source names are text: 10 before 9",
    ],
)
def test_between_sources_time_decides_then_the_source_name(first: UserUpdate, second: UserUpdate) -> None:
    assert drained(make_queue(first, second)) == [first, second]
    assert drained(make_queue(second, first)) == [first, second]


def test_only_the_first_of_each_source_is_compared_between_sources() -> None:
    """A later sequence with an early time does not come before its own source's first."""
    first = make_update(sequence=1, time=at(30))
    early = make_update(sequence=2, time=at(-30))
    other = make_update(sequence=5, time=at(10), partition=1)
    assert drained(make_queue(early, first, other)) == [other, first, early]


def test_hand_made_updates_of_equal_sequence_go_by_creation_then_by_name() -> None:
    later = make_update(sequence=1, manual=True, name="a", time=at(2))
    b = make_update(sequence=1, manual=True, name="b", time=at(1))
    c = make_update(sequence=1, manual=True, name="c", time=at(1))
    lower = make_update(sequence=0, manual=True, name="z", time=at(9))
    for updates in ([later, b, c, lower], [c, lower, b, later]):
        assert drained(make_queue(*updates)) == [lower, b, c, later]


@pytest.mark.parametrize("status", [RUNNING, WAITING])
def test_an_update_that_has_been_called_stays_the_head_whatever_comes(status: Status) -> None:
    begun = make_update(sequence=5, status=status)
    queue = make_queue(begun)
    queue.push(make_update(sequence=1))
    queue.push(make_update(sequence=1, manual=True, time=at(-99)))
    queue.push(make_update(sequence=2, partition=1, time=at(-99)))
    assert queue.head is begun
    queue.remove(begun.name)
    assert queue.head and queue.head.name != begun.name


@pytest.mark.parametrize("reason", sorted(BEFORE_THE_FIRST_CALL))
def test_one_that_waits_for_its_first_call_lets_an_earlier_one_go_first(reason: Reason) -> None:
    waiting = make_update(sequence=5, status=Status(phase=Phase.WAITING, step="profile", reason=reason))
    queue = make_queue(waiting)
    assert (queue.head, queue.displaced) == (waiting, [])
    queue.push(earlier := make_update(sequence=1))
    assert (queue.head, queue.displaced) == (earlier, [waiting])
    queue.remove(earlier.name)
    assert (queue.head, queue.displaced) == (waiting, [])


def test_what_could_not_be_called_after_all_is_put_back() -> None:
    queue = make_queue(first := make_update(sequence=5))
    assert queue.take(first.name)
    assert not queue.take(first.name), "a second call"
    queue.push(earlier := make_update(sequence=1))
    assert queue.head is first
    queue.put_back(first.name)
    assert queue.head is earlier


def test_of_two_that_have_been_called_the_lower_sequence_of_a_source_comes_first_though_its_time_is_later() -> None:
    lower = make_update(sequence=1, time=at(50), status=WAITING)
    higher = make_update(sequence=2, time=at(-50), status=RUNNING)
    assert drained(make_queue(higher, lower)) == [lower, higher]


def test_what_was_taken_stays_the_head_until_it_is_removed() -> None:
    """Its first call runs: no phase says so yet."""
    taken = make_update(sequence=5)
    queue = make_queue(taken)
    queue.take(taken.name)
    queue.push(make_update(sequence=1))
    queue.push(make_update(sequence=0, manual=True, time=at(-99), status=WAITING))
    assert queue.head is taken
    answered = replace(taken, status=RUNNING, resource_version=101)
    queue.push(answered)
    assert queue.head is answered
    queue.remove(taken.name)
    assert sequences(drained(queue)) == [0, 1]


def test_pushing_an_update_again_replaces_it_and_adds_nothing() -> None:
    queue = make_queue(make_update(sequence=1), make_update(sequence=2))
    newer = make_update(sequence=1, resource_version=200)
    queue.push(newer)
    queue.push(newer)
    assert len(queue) == 2
    assert queue.get(newer.name) is newer
    assert drained(queue) == [newer, make_update(sequence=2)]


def test_a_hand_made_update_deleted_and_applied_anew_takes_its_new_place() -> None:
    old, between = make_update(sequence=1, manual=True, name="one"), make_update(sequence=2, manual=True, name="two")
    queue = make_queue(old, between)
    anew = make_update(sequence=3, manual=True, name="one", uid="another")
    queue.push(anew)
    assert drained(queue) == [between, anew]


def test_a_hand_made_update_replaced_by_a_record_of_its_name_changes_its_source() -> None:
    queue = make_queue(make_update(sequence=1, manual=True, name="one"), make_update(sequence=2))
    anew = make_update(sequence=3, name="one")
    queue.push(anew)
    assert sequences(drained(queue)) == [2, 3]


def test_an_update_whose_phase_was_taken_back_waits_its_turn_again() -> None:
    queue = make_queue(make_update(sequence=5, status=WAITING), make_update(sequence=1))
    queue.push(make_update(sequence=5, resource_version=200))
    assert sequences(drained(queue)) == [1, 5]


def test_removing_from_the_middle_and_what_is_not_there() -> None:
    queue = make_queue(*(make_update(sequence=sequence) for sequence in (1, 2, 3)))
    queue.remove(make_update(sequence=2).name)
    queue.remove("never heard of")
    assert len(queue) == 2
    assert sequences(drained(queue)) == [1, 3]
    queue.remove(make_update(sequence=3).name)
    assert queue.head is None


def test_what_was_removed_can_come_back_and_comes_once() -> None:
    update = make_update(sequence=1)
    queue = make_queue(update, make_update(sequence=2))
    for _ in range(3):
        queue.remove(update.name)
        queue.push(update)
    assert sequences(drained(queue)) == [1, 2]


def test_removing_another_leaves_the_one_in_hand() -> None:
    queue = make_queue(make_update(sequence=1), make_update(sequence=2))
    queue.take(make_update(sequence=2).name)
    queue.remove(make_update(sequence=1).name)
    assert sequences(drained(queue)) == [2]


def test_the_requests_that_wait_to_be_acted_upon() -> None:
    asked = make_update(sequence=2, request="skip")
    done = make_update(sequence=3, request="retry:1", status=replace(WAITING, handled_request="retry:1"))
    queue = make_queue(make_update(sequence=1), asked, done)
    assert queue.requested == [asked]
    queue.push(replace(done, request="retry:2"))
    assert {update.name for update in queue.requested} == {asked.name, done.name}
    queue.push(make_update(sequence=2))
    queue.remove(done.name)
    assert queue.requested == []


PLACES = st.tuples(
    st.sampled_from([(TOPIC_ID, 0), (TOPIC_ID, 1), (OTHER_TOPIC_ID, 0), (None, 0)]),
    st.integers(0, 12),
    st.integers(0, 3),
)


def made(place: tuple[tuple[str | None, int], int, int]) -> UserUpdate:
    """Times are few, so that many are equal, and do not follow the sequences: producers set them as they like."""
    (topic_id, partition), sequence, seconds = place
    if topic_id is None:
        return make_update(sequence=sequence, manual=True, name=f"m-{sequence}-{seconds}", time=at(seconds))
    return make_update(sequence=sequence, topic_id=topic_id, partition=partition, time=at(seconds))


ARRIVALS = st.lists(PLACES.map(made), max_size=25)


def plainly_next(updates: dict[str, UserUpdate]) -> UserUpdate | None:
    """The contract read out slowly: each source's lowest, and of these the earliest."""
    lowest = [
        min(
            (update for update in updates.values() if source(update) == one),
            key=lambda update: (update.spec.sequence, update.creation_time, update.name),
        )
        for one in {source(update) for update in updates.values()}
    ]

    def key(update: UserUpdate) -> tuple[object, ...]:
        record = update.spec.source
        return (record.timestamp if record else update.creation_time, source(update), update.name)

    return min(lowest, key=key, default=None)


@given(ARRIVALS)
@example([])
def test_any_arrivals_with_duplicates_and_gaps_come_out_once_and_in_order(arrivals: list[UserUpdate]) -> None:
    order = drained(make_queue(*arrivals))
    assert sorted(update.name for update in order) == sorted({update.name for update in arrivals})
    assert_in_sequence(order)


@given(ARRIVALS, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(arrivals: list[UserUpdate], chance: random.Random) -> None:
    known = {update.name: update for update in arrivals}  # of two of one name the later counts: keep one
    shuffled = list(known.values())
    chance.shuffle(shuffled)
    assert drained(make_queue(*known.values())) == drained(make_queue(*shuffled))


ACTIONS = st.tuples(st.sampled_from(["push", "push", "remove", "finish", "take"]), PLACES.map(made))


@given(st.lists(ACTIONS, max_size=60))
def test_after_any_history_the_head_is_the_one_that_the_contract_names(history: list[tuple[str, UserUpdate]]) -> None:
    queue, model, in_hand = UserQueue(), dict[str, UserUpdate](), None
    for action, update in history:
        if action == "push":
            queue.push(update)
            model[update.name] = update
        elif action == "take" and (head := queue.head):
            queue.take(head.name)
            in_hand = head.name
        else:
            gone = queue.head or update if action == "finish" else update
            queue.remove(gone.name)
            model.pop(gone.name, None)
            in_hand = None if in_hand == gone.name else in_hand
        assert queue.head == (model[in_hand] if in_hand else plainly_next(model))
        assert len(queue) == len(model)
        assert {update.name: update for update in queue} == model


class ByArrival(UserQueue):
    """Broken: the first to arrive is the head."""

    @property
    def head(self) -> UserUpdate | None:
        return next(iter(self), None)


class ByTime(UserQueue):
    """Broken: time decides, even within a source."""

    @property
    def head(self) -> UserUpdate | None:
        return min(self, key=lambda update: update.timestamp, default=None)


class ByName(UserQueue):
    """Broken: the sequence is compared as text."""

    @property
    def head(self) -> UserUpdate | None:
        return min(self, key=lambda update: str(update.spec.sequence), default=None)


@pytest.mark.parametrize("broken", [ByArrival, ByTime, ByName])
def test_the_order_check_can_fail(broken: Callable[[], UserQueue]) -> None:
    updates = [make_update(sequence=n, time=at(-n)) for n in (10, 9, 11)]
    queue, sound = broken(), UserQueue()
    for update in updates:
        queue.push(update)
        sound.push(update)
    assert_in_sequence(drained(sound))
    with pytest.raises(AssertionError, match="came before"):
        assert_in_sequence(drained(queue))


def test_order_holds_where_a_queue_shrinks_to_one_update_and_grows_again() -> None:
    second, first, third = make_update(sequence=2), make_update(sequence=1), make_update(sequence=3)
    queue = make_queue(second, first)
    queue.remove(second.name)
    assert queue.head == first
    queue.push(third)
    queue.push(second)
    assert drained(queue) == [first, second, third]
