"""Fair slots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controller.api.update_stream import Limits
from controller.bridge.working_set import STALE, Slots

USERS = st.sampled_from(["ana", "bo", "cy", "dan", "eve"])


def make_slots(max_objects: int = 10, max_per_user: int = 5) -> Slots:
    return Slots(Limits(max_objects, max_per_user))


def fill(slots: Slots, *users: str) -> None:
    """Each has an unfinished update more, seen by the watch."""
    for user in users:
        number = slots.taken
        slots.seen(user, f"{user}-{number}", number)


def granted(slots: Slots) -> list[str]:
    found = []
    while (user := slots.grant()) is not None:
        found.append(user)
    return found


def serve(slots: Slots, version: int) -> str:
    """Grant a slot; the object is created and seen at that version."""
    user = slots.grant()
    assert user is not None
    slots.created(user, f"new-{version}", version)
    slots.seen(user, f"new-{version}", version)
    return user


def test_the_first_of_a_user_may_take_the_last_slot() -> None:
    slots = make_slots(4)
    fill(slots, "ana", "ana", "ana")
    slots.want("ana")
    slots.want("bo")
    assert granted(slots) == ["bo"]


def test_further_ones_only_while_fewer_than_half_are_taken() -> None:
    slots = make_slots(4)
    fill(slots, "ana")
    slots.want("ana")
    assert granted(slots) == ["ana"]
    slots.want("ana")
    assert granted(slots) == []


@pytest.mark.parametrize(("per_user", "want"), [(1, 0), (2, 1), (3, 2)])
def test_nobody_has_more_than_max_per_user(per_user: int, want: int) -> None:
    slots = make_slots(100, per_user)
    fill(slots, "ana")
    got = 0
    for _ in range(5):
        slots.want("ana")
        got += len(granted(slots))
    assert got == want


def test_who_has_waited_longest_is_next() -> None:
    slots = make_slots(1)
    fill(slots, "zoe")
    for user in ("ana", "bo", "cy"):
        slots.want(user)
    slots.want("ana")  # asking twice is not waiting longer
    order = []
    for version in range(3):
        slots.gone(next(iter(slots._seen)), version + 10)
        order.append(serve(slots, version + 100))
    assert order == ["ana", "bo", "cy"]


def test_who_was_served_goes_to_the_end() -> None:
    slots = make_slots(100)
    for user in ("ana", "bo"):
        slots.want(user)
    assert slots.grant() == "ana"
    slots.want("ana")
    assert [slots.grant(), slots.grant()] == ["bo", "ana"]


def test_a_user_whose_last_update_finishes_waits_for_a_first_slot_again() -> None:
    slots = make_slots(3)
    fill(slots, "ana", "bo", "cy")
    slots.want("ana")
    assert slots.grant() is None
    slots.gone("ana-0", 10)
    assert slots.grant() == "ana"


def test_the_watch_may_be_faster_than_the_answer() -> None:
    slots = make_slots(10)
    slots.want("ana")
    assert slots.grant() == "ana"
    slots.seen("ana", "a", 7)
    assert slots.created("ana", "a", 7)
    assert slots.taken == 1


def test_an_end_that_was_seen_before_the_answer_is_an_end() -> None:
    slots = make_slots(10)
    slots.want("ana")
    assert slots.grant() == "ana"
    slots.seen("ana", "a", 7)
    slots.gone("a", 8)
    assert not slots.created("ana", "a", 7)
    assert slots.taken == 0


def test_a_list_settles_what_it_could_have_shown() -> None:
    slots = make_slots(10)
    for user, version in (("ana", 5), ("bo", 9)):
        slots.want(user)
        slots.grant()
        slots.created(user, user, version)
    slots.listed({"hand": "eve"}, 7)
    # ana's was there at 5 and is not at 7; bo's is younger than the list.
    assert (slots.of("ana"), slots.of("bo"), slots.of("eve"), slots.taken) == (0, 1, 1, 2)


def test_objects_of_unknown_users_take_slots() -> None:
    slots = make_slots(1)
    slots.seen("", "by-hand", 1)
    slots.want("ana")
    assert slots.grant() is None
    assert slots.starving


def test_new_limits_act() -> None:
    slots = make_slots(1)
    fill(slots, "zoe")
    slots.want("ana")
    assert slots.grant() is None
    slots.limit(Limits(2, 5))
    assert slots.grant() == "ana"


def test_queues_do_not_grow_with_what_happens() -> None:
    slots = make_slots(2)
    fill(slots, "zoe")
    slots.want("ana")
    for number in range(10_000):
        slots.seen("ana", f"a{number}", number)
        slots.gone(f"a{number}", number)
    assert len(slots._first) + len(slots._more) < 4 * STALE


class Watched(RuleBasedStateMachine):
    """Any order of grants, answers and watch events: the sums are right and the limits are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = make_slots(6, 3)
        self.waiting: set[str] = set()
        self.reserved: list[str] = []
        self.version = 0
        #: Objects by name: user, and whether the watch has shown them.
        self.objects: dict[str, tuple[str, bool]] = {}

    @rule(user=USERS)
    def want(self, user: str) -> None:
        self.slots.want(user)
        self.waiting.add(user)

    @rule()
    def grant(self) -> None:
        before, counts = self.slots.taken, {user: self.count(user) for user in self.waiting}
        user = self.slots.grant()
        first = [one for one, count in counts.items() if count == 0]
        if user is None:
            assert before >= 6 or (not first and (before >= 3 or all(count >= 3 for count in counts.values())))
            return
        assert before < 6 and user in self.waiting
        assert counts[user] == 0 or (counts[user] < 3 and before < 3)
        self.waiting.discard(user)
        self.reserved.append(user)

    @precondition(lambda self: self.reserved)
    @rule(seen_first=st.booleans())
    def create(self, seen_first: bool) -> None:
        user = self.reserved.pop(0)
        self.version += 1
        name = f"{user}-{self.version}"
        if seen_first:
            self.slots.seen(user, name, self.version)
        assert self.slots.created(user, name, self.version)
        self.objects[name] = user, seen_first

    @precondition(lambda self: self.reserved)
    @rule()
    def give_up(self) -> None:
        self.slots.release(self.reserved.pop())

    @precondition(lambda self: self.objects)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.objects)))
        user, seen = self.objects.pop(name)
        if not seen:
            self.slots.seen(user, name, self.version)
        self.version += 1
        self.slots.gone(name, self.version)

    @rule()
    def relist(self) -> None:
        self.version += 1
        self.slots.listed({name: user for name, (user, _) in self.objects.items()}, self.version)
        self.objects = {name: (user, True) for name, (user, _) in self.objects.items()}

    @invariant()
    def sums_are_right(self) -> None:
        assert self.slots.taken == len(self.objects) + len(self.reserved)
        for user in ("ana", "bo", "cy", "dan", "eve"):
            assert self.slots.of(user) == self.count(user)

    def count(self, user: str) -> int:
        return sum(owner == user for owner, _ in self.objects.values()) + self.reserved.count(user)


TestWatched = Watched.TestCase


@given(st.lists(USERS, max_size=60))
def test_every_user_who_waits_is_served_when_slots_come_free(users: list[str]) -> None:
    slots = make_slots(2, 1)
    served: list[str] = []
    for user in users:
        slots.want(user)
    waiting = set(users)
    for version in range(len(waiting)):
        served.append(serve(slots, 2 * version + 1))
        slots.gone(f"new-{2 * version + 1}", 2 * version + 2)
    assert set(served) == waiting
