"""Whole users on a virtual clock, with any answers in any order: once, in order, and never before a delay is over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.update_stream import Policy, UpdateStream
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Phase, Status
from controller.core.decisions import AwaitPredecessor, Decision, Finish, Release, RequeueAfter, RunStep, decide, record
from controller.core.outcomes import Busy, Done, Misconfigured, Outcome, Rejected, Retry
from controller.core.user_queue import UserQueue
from tests.support.builders import NOW, at, make_stream, make_update

STEP_NAMES = ["profile", "permissions", "resources"]


@dataclass
class Call:
    sequence: int
    step: str
    key: str
    time: datetime
    #: The step succeeded, and that was recorded.
    done: bool


@dataclass
class World:
    """One user's updates, a virtual clock and a downstream that answers as it was told to; a restart forgets the rest.

    It holds what the API server would hold, status bodies, and reads them anew before each decision.
    """

    stream: UpdateStream
    updates: dict[str, UserUpdate]
    answers: list[Outcome | None]
    queue_type: type[UserQueue] = UserQueue
    now: datetime = NOW

    def __post_init__(self) -> None:
        self.calls: list[Call] = []
        self.follows: str | None = None

    def run(self) -> None:
        """To the end; every outcome that was drawn is used, then all goes well."""
        for _ in range(2000):
            queue = self.queue_type()
            for update in self.updates.values():
                if not update.status.finished:
                    queue.push(update)
            if (head := queue.head) is None:
                return
            self._act(head, decide(head, queue, self.stream, self.now, follows=self.follows))
        raise AssertionError("it does not come to an end")

    def _act(self, update: UserUpdate, decision: Decision) -> None:
        match decision:
            case RunStep(step):
                self._call(update, step)
            case AwaitPredecessor(name):
                assert name not in self.updates or self.updates[name].status.finished, f"{name} was overtaken"
                self.follows = name
            case RequeueAfter(None, status):
                assert status.held, "only a held update waits without end here"
                self._write(update, status)
                self.updates[update.name] = replace(self.updates[update.name], request=f"retry:{len(self.calls)}")
            case RequeueAfter(datetime() as time, status):
                self._write(update, status)
                self.now = time
            case Release(status) | Finish(status):
                self._write(update, status)
            case _:
                raise AssertionError(f"the head was told {decision}")

    def _call(self, update: UserUpdate, step: str) -> None:
        outcome = self.answers.pop(0) if self.answers else Done({})
        key, started = update.idempotency_key(step), self.now
        self.calls.append(Call(update.spec.sequence, step, key, started, done=isinstance(outcome, Done)))
        self.now += timedelta(milliseconds=10)
        if outcome is None:  # killed before the outcome was recorded
            self.follows = None
            return
        if isinstance(outcome, Done):
            outcome = Done({"profile": {"userId": "u-1"}, "permissions": {"roleId": "r-1"}}.get(step, {}))
        status = record(update.status, outcome, self.stream, started, self.now, jitter=0.5)
        if status.next_attempt_time:
            assert status.next_attempt_time > self.now
        self._write(update, status)

    def _write(self, update: UserUpdate, status: Status) -> None:
        body = {key: value for key, value in status.for_status().items() if value is not None}
        self.updates[update.name] = update.with_status(Status.from_body(body), update.resource_version + 1)


def assert_applied_in_order(world: World) -> None:
    """What the contract promises of one user, read from the calls and the last statuses alone."""
    assert [call.sequence for call in world.calls] == sorted(call.sequence for call in world.calls), "out of order"
    for update in world.updates.values():
        calls = [call for call in world.calls if call.sequence == update.spec.sequence]
        want_steps = [record.name for record in update.status.steps]
        assert want_steps == STEP_NAMES[: len(want_steps)]
        assert not any(call.done and call.step == later.step for call, later in pairwise(calls)), "called again"
        places = [STEP_NAMES.index(call.step) for call in calls]
        assert all(later - earlier in {0, 1} for earlier, later in pairwise(places)), "a step out of order"
        for step in STEP_NAMES:
            assert len({call.key for call in calls if call.step == step}) <= 1, "a repeat had another key"
    keys = {(call.sequence, call.step): call.key for call in world.calls}
    assert len(set(keys.values())) == len(keys), "two calls share a key"


OUTCOMES: st.SearchStrategy[Outcome | None] = st.one_of(
    st.just(Done({})),
    st.just(Done({})),
    st.just(None),
    st.builds(Busy, st.just("503"), st.none() | st.floats(1, 300)),
    st.just(Retry("500")),
    st.just(Misconfigured("401")),
    st.just(Rejected("422")),
)
POLICIES: st.SearchStrategy[Policy] = st.sampled_from(["Hold", "Continue"])


@given(
    sequences=st.lists(st.integers(0, 50), min_size=1, max_size=5, unique=True),
    answers=st.lists(OUTCOMES, max_size=30),
    on_rejected=POLICIES,
    on_exhausted=POLICIES,
    max_attempts=st.integers(0, 4),
    linked=st.booleans(),
)
def test_any_answers_to_a_user_leave_every_update_applied_once_and_in_order(
    sequences: list[int],
    answers: list[Outcome | None],
    on_rejected: Policy,
    on_exhausted: Policy,
    max_attempts: int,
    linked: bool,
) -> None:
    """Busy, failing, rejecting, killed between answer and checkpoint: read back from the status after each of them."""
    stream = make_stream(on_rejected=on_rejected, on_exhausted=on_exhausted, max_attempts=max_attempts)
    before = dict(zip(sorted(sequences)[1:], sorted(sequences), strict=False)) if linked else {}
    updates = [
        make_update(sequence=n, time=at(-n), after=make_update(sequence=before[n]).name if n in before else None)
        for n in sequences
    ]
    given_answers = list(answers)
    world = World(stream, {update.name: update for update in updates}, answers)
    world.run()

    assert_applied_in_order(world)
    assert all(update.status.finished for update in world.updates.values())
    assert_every_answer_was_heeded(world, given_answers)


def assert_every_answer_was_heeded(world: World, answers: list[Outcome | None]) -> None:
    """No call before the delay that the answer before it asked for; a success ends the step."""
    for (call, answer), following in zip(zip(world.calls, answers, strict=False), world.calls[1:], strict=False):
        pause, same = following.time - call.time, (call.sequence, call.step) == (following.sequence, following.step)
        match answer:
            case Busy(_, seconds):
                assert same and pause >= timedelta(seconds=seconds or 5)
            case Misconfigured():
                assert same and pause >= timedelta(seconds=1)
            case None:
                assert same
            case Done():
                assert not same


class LastFirst(UserQueue):
    """Broken: the highest sequence goes first."""

    @property
    def head(self) -> UserUpdate | None:
        return max(self, key=lambda update: update.spec.sequence, default=None)


class Impatient(UserQueue):
    """Broken: a waiting head is overtaken."""

    @property
    def head(self) -> UserUpdate | None:
        ready = (update for update in self if update.status.phase is not Phase.WAITING)
        return min(ready, key=lambda update: update.spec.sequence, default=super().head)


@pytest.mark.parametrize("broken", [LastFirst, Impatient])
def test_the_check_of_the_order_can_fail(broken: type[UserQueue]) -> None:
    def world(queue_type: type[UserQueue]) -> World:
        updates = {update.name: update for update in (make_update(sequence=1), make_update(sequence=2))}
        return World(make_stream(), updates, [Done({}), Busy("503")], queue_type)

    sound, unsound = world(UserQueue), world(broken)
    sound.run()
    assert_applied_in_order(sound)
    unsound.run()
    with pytest.raises(AssertionError, match="out of order"):
        assert_applied_in_order(unsound)


FORGED = {
    "called again": Call(1, "resources", "default/name/resources/0", NOW, done=True),
    "a step out of order": Call(1, "profile", "default/name/profile/0", NOW, done=True),
    "a repeat had another key": Call(1, "resources", "another", NOW, done=False),
}


@pytest.mark.parametrize(("want", "forged"), FORGED.items(), ids=FORGED.keys())
def test_the_check_of_the_steps_can_fail(want: str, forged: Call) -> None:
    update = make_update(sequence=1, name="name")
    answers: list[Outcome | None] = [Done({}), Done({}), None] if want == "a repeat had another key" else []
    world = World(make_stream(), {update.name: update}, answers)
    world.run()
    assert_applied_in_order(world)
    place = -1 if want == "a repeat had another key" else len(world.calls)
    world.calls.insert(place, forged)
    with pytest.raises(AssertionError, match=want):
        assert_applied_in_order(world)
