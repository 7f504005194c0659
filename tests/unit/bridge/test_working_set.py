"""The working set: who may have the next update, and which update names which."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controller.api.update_stream import Limits
from controller.api.user_update import Source
from controller.bridge.working_set import STALE, WorkingSet
from controller.core.records import UpdateEvent
from tests.support.builders import NOW

USERS = st.sampled_from(["ana", "bo", "cy", "dan", "eve"])


def make_working_set(max_objects: int = 10, max_per_user: int = 5) -> WorkingSet:
    return WorkingSet(Limits(max_objects, max_per_user))


def event(user: str, offset: int) -> UpdateEvent:
    """Of a record of that user in the only partition."""
    return UpdateEvent(user, "dev", "all", "all", Source("events", "id", 0, offset, NOW))


def fill(working_set: WorkingSet, *users: str) -> None:
    """Each has an unfinished update more, seen by the watch."""
    for user in users:
        number = working_set.taken
        working_set.shown(user, f"{user}-{number}", number)


def granted(working_set: WorkingSet) -> list[str]:
    found = []
    while (user := working_set.grant()) is not None:
        found.append(user)
    return found


def serve(working_set: WorkingSet, version: int) -> str:
    """Grant a slot; the object is created and seen at that version."""
    user = working_set.grant()
    assert user is not None
    working_set.created(user, event(user, version), f"new-{version}", version)
    working_set.shown(user, f"new-{version}", version)
    return user


def test_the_first_of_a_user_may_take_the_last_slot() -> None:
    working_set = make_working_set(4)
    fill(working_set, "ana", "ana", "ana")
    working_set.want("ana")
    working_set.want("bo")
    assert granted(working_set) == ["bo"]


def test_further_ones_only_while_fewer_than_half_are_taken() -> None:
    working_set = make_working_set(4)
    fill(working_set, "ana")
    working_set.want("ana")
    assert granted(working_set) == ["ana"]
    working_set.want("ana")
    assert granted(working_set) == []


@pytest.mark.parametrize(("per_user", "want"), [(1, 0), (2, 1), (3, 2)])
def test_nobody_has_more_than_max_per_user(per_user: int, want: int) -> None:
    working_set = make_working_set(100, per_user)
    fill(working_set, "ana")
    got = 0
    for _ in range(5):
        working_set.want("ana")
        got += len(granted(working_set))
    assert got == want


def test_who_has_waited_longest_is_next() -> None:
    working_set = make_working_set(1)
    fill(working_set, "zoe")
    for user in ("ana", "bo", "cy"):
        working_set.want(user)
    working_set.want("ana")  # asking twice is not waiting longer
    order = []
    for version in range(3):
        working_set.gone(next(iter(working_set._updates)), version + 10)
        order.append(serve(working_set, version + 100))
    assert order == ["ana", "bo", "cy"]


def test_who_was_served_goes_to_the_end() -> None:
    working_set = make_working_set(100)
    for user in ("ana", "bo"):
        working_set.want(user)
    assert working_set.grant() == "ana"
    working_set.want("ana")
    assert [working_set.grant(), working_set.grant()] == ["bo", "ana"]


def test_a_user_whose_last_update_finishes_waits_for_a_first_slot_again() -> None:
    working_set = make_working_set(3)
    fill(working_set, "ana", "bo", "cy")
    working_set.want("ana")
    assert working_set.grant() is None
    working_set.gone("ana-0", 10)
    assert working_set.grant() == "ana"


def test_the_watch_may_be_faster_than_the_answer() -> None:
    working_set = make_working_set(10)
    working_set.want("ana")
    assert working_set.grant() == "ana"
    working_set.shown("ana", "a", 7)
    assert working_set.created("ana", event("ana", 7), "a", 7)
    assert working_set.taken == 1


def test_an_end_that_was_seen_before_the_answer_is_an_end() -> None:
    working_set = make_working_set(10)
    working_set.want("ana")
    assert working_set.grant() == "ana"
    working_set.shown("ana", "a", 7)
    working_set.gone("a", 8)
    assert not working_set.created("ana", event("ana", 7), "a", 7)
    assert working_set.taken == 0


def test_a_list_settles_what_it_could_have_shown() -> None:
    working_set = make_working_set(10)
    for user, version in (("ana", 5), ("bo", 9)):
        working_set.want(user)
        working_set.grant()
        working_set.created(user, event(user, version), user, version)
    working_set.listed_labels({"hand": "eve"}, 7)
    # ana's was there at 5 and is not at 7; bo's is younger than the list.
    assert (working_set.of("ana"), working_set.of("bo"), working_set.of("eve"), working_set.taken) == (0, 1, 1, 2)


def test_objects_of_unknown_users_take_slots() -> None:
    working_set = make_working_set(1)
    working_set.shown("", "by-hand", 1)
    working_set.want("ana")
    assert working_set.grant() is None
    assert working_set.starving


def test_new_limits_act() -> None:
    working_set = make_working_set(1)
    fill(working_set, "zoe")
    working_set.want("ana")
    assert working_set.grant() is None
    working_set.limit(Limits(2, 5))
    assert working_set.grant() == "ana"


def test_queues_do_not_grow_with_what_happens() -> None:
    working_set = make_working_set(2)
    fill(working_set, "zoe")
    working_set.want("ana")
    for number in range(10_000):
        working_set.shown("ana", f"a{number}", number)
        working_set.gone(f"a{number}", number)
    assert len(working_set._first) + len(working_set._more) < 4 * STALE


class Watched(RuleBasedStateMachine):
    """Any order of grants, answers and watch events: the sums are right and the limits are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.working_set = make_working_set(6, 3)
        self.waiting: set[str] = set()
        self.reserved: list[str] = []
        self.version = 0
        #: Objects by name: user, and whether the watch has shown them.
        self.objects: dict[str, tuple[str, bool]] = {}

    @rule(user=USERS)
    def want(self, user: str) -> None:
        self.working_set.want(user)
        self.waiting.add(user)

    @rule()
    def grant(self) -> None:
        before, counts = self.working_set.taken, {user: self.count(user) for user in self.waiting}
        user = self.working_set.grant()
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
            self.working_set.shown(user, name, self.version)
        assert self.working_set.created(user, event(user, self.version), name, self.version)
        self.objects[name] = user, seen_first

    @precondition(lambda self: self.reserved)
    @rule()
    def give_up(self) -> None:
        self.working_set.release(self.reserved.pop())

    @precondition(lambda self: self.objects)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.objects)))
        user, seen = self.objects.pop(name)
        if not seen:
            self.working_set.shown(user, name, self.version)
        self.version += 1
        self.working_set.gone(name, self.version)

    @rule()
    def relist(self) -> None:
        self.version += 1
        self.working_set.listed_labels({name: user for name, (user, _) in self.objects.items()}, self.version)
        self.objects = {name: (user, True) for name, (user, _) in self.objects.items()}

    @invariant()
    def sums_are_right(self) -> None:
        assert self.working_set.taken == len(self.objects) + len(self.reserved)
        for user in ("ana", "bo", "cy", "dan", "eve"):
            assert self.working_set.of(user) == self.count(user)

    def count(self, user: str) -> int:
        return sum(owner == user for owner, _ in self.objects.values()) + self.reserved.count(user)


TestWatched = Watched.TestCase


@given(st.lists(USERS, max_size=60))
def test_every_user_who_waits_is_served_when_slots_come_free(users: list[str]) -> None:
    working_set = make_working_set(2, 1)
    served: list[str] = []
    for user in users:
        working_set.want(user)
    waiting = set(users)
    for version in range(len(waiting)):
        served.append(serve(working_set, 2 * version + 1))
        working_set.gone(f"new-{2 * version + 1}", 2 * version + 2)
    assert set(served) == waiting


def create(working_set: WorkingSet, offset: int, name: str, version: int, user: str = "ana") -> None:
    """That user's record at that offset gets a place and its update."""
    working_set.want(user)
    assert working_set.grant() == user
    assert working_set.created(user, event(user, offset), name, version)


def listed(name: str, offset: int, user: str = "ana") -> dict[str, Any]:
    source = {"topicId": "id", "partition": 0, "offset": offset}
    return {"metadata": {"name": name}, "spec": {"user": user, "source": source}}


def test_the_last_unfinished_one_is_named() -> None:
    working_set = make_working_set(100)
    create(working_set, 1, "one", 1)
    create(working_set, 2, "two", 2)
    assert working_set.after(event("ana", 3)) == "two"
    working_set.gone("one", 9)
    assert working_set.after(event("ana", 3)) == "two"
    working_set.gone("two", 9)
    assert working_set.after(event("ana", 3)) is None


def test_when_the_last_one_is_cancelled_the_one_before_it_is_the_last() -> None:
    working_set = make_working_set(100)
    create(working_set, 1, "one", 1)
    create(working_set, 2, "two", 2)
    working_set.gone("two", 9)
    assert working_set.after(event("ana", 3)) == "one"


def test_an_older_one_does_not_take_the_place_of_a_later_one() -> None:
    working_set = make_working_set(100)
    create(working_set, 2, "two", 2)
    create(working_set, 1, "one", 3)
    assert working_set.after(event("ana", 3)) == "two"


def test_a_record_that_is_read_again_comes_after_what_is_below_it() -> None:
    """Its update was deleted by a person; those above it wait for it, so it must not wait for them."""
    working_set = make_working_set(100)
    for offset, name in ((5, "five"), (20, "twenty"), (50, "fifty")):
        create(working_set, offset, name, offset)
    assert working_set.after(event("ana", 10)) == "five"
    assert working_set.after(event("ana", 5)) is None
    assert working_set.after(event("ana", 50)) == "twenty"


def test_a_list_drops_what_is_over_and_keeps_what_is_newer() -> None:
    working_set = make_working_set(100)
    create(working_set, 1, "over", 5)
    create(working_set, 2, "newer", 9, user="bo")
    hand_made = {"metadata": {"name": "hand"}, "spec": {"user": "cy"}}
    working_set.listed([listed("there", 7, "dan"), listed("first", 3, "dan"), hand_made], version=7, asked_at=5)
    assert working_set.after(event("ana", 99)) is None
    assert working_set.after(event("bo", 99)) == "newer"
    assert working_set.after(event("dan", 99)) == "there"
    assert working_set.after(event("cy", 99)) is None


def test_what_the_watch_has_shown_beyond_a_list_stays_with_its_offset() -> None:
    """Partitions are assigned to a replica that has others: it lists while updates are created, and its watch goes on.

    The next watch shows the update again, without its offset: the user's next one would name none.
    """
    working_set = make_working_set(100)
    working_set.reached(5)
    create(working_set, 1, "one", version=9)
    working_set.shown("ana", "one", 9)
    working_set.listed([], version=7, asked_at=5)
    assert working_set.after(event("ana", 2)) == "one"
    assert working_set.taken == 1
    working_set.shown("ana", "one", 9)
    assert (working_set.after(event("ana", 2)), working_set.taken) == ("one", 1)
    working_set.gone("one", 10)
    assert (working_set.after(event("ana", 2)), working_set.taken) == (None, 0)


def test_a_list_from_before_what_was_shown_takes_it_back() -> None:
    """The API server was restored from a backup, and no watch will show an end of what came after it."""
    working_set = make_working_set(100)
    create(working_set, 1, "one", version=9)
    working_set.shown("ana", "one", 9)
    working_set.listed_labels({}, 7)
    assert (working_set.after(event("ana", 2)), working_set.taken) == (None, 0)
    create(working_set, 1, "one", version=19)
    working_set.shown("ana", "one", 19)
    working_set.listed([], version=17, asked_at=19)
    assert (working_set.after(event("ana", 2)), working_set.taken) == (None, 0)


def test_the_end_of_an_update_that_was_made_anew_is_not_that_of_the_new_one() -> None:
    """Somebody deleted it, its record was read again, and the watch is late."""
    working_set = make_working_set(100)
    create(working_set, 1, "one", version=9)
    working_set.gone("one", 5)
    assert working_set.after(event("ana", 2)) == "one"
    assert working_set.taken == 1
