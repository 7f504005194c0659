"""What has been called stays the head, and nothing else: any order of arrival, suspension and resumption."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Phase, Reason, Status
from controller.core.decisions import Finish, Release, RequeueAfter, RunStep, decide, record, waiting_for_slot
from controller.core.outcomes import Busy, Done, Misconfigured, Outcome, Rejected, Retry
from controller.core.user_queue import UserQueue
from tests.support.builders import NOW, PROFILE_DONE, at, held_status, make_queue, make_stream, make_update
from tests.support.records import OTHER_TOPIC_ID, TOPIC_ID
from tests.unit.core.test_user_queue import plainly_next

STREAM = make_stream(on_rejected="Hold")
NO_SLOT, CUT_OFF = "no slot", "cut off"


@pytest.mark.parametrize(
    "outcome",
    [Done({}), Busy("503"), Retry("500"), Misconfigured("401"), Rejected("422")],
    ids=lambda outcome: type(outcome).__name__,
)
def test_the_first_answer_of_any_kind_writes_when_its_call_began_and_no_later_one_does(outcome: Outcome) -> None:
    status = record(Status(), outcome, STREAM, at(1), at(2))
    assert status.start_time == at(1)
    assert status.called
    assert record(status, Busy("503"), STREAM, at(3), at(4)).start_time == at(1)
    assert Status.from_body(stored(status)).start_time == at(1)


def stored(status: Status) -> dict[str, Any]:
    return {key: value for key, value in status.for_status().items() if value is not None}


WAITING = Status(phase=Phase.WAITING, step="profile", reason=Reason.SUSPENDED, transition_time=NOW)
#: As versions before `startTime` left them.
EARLIER = [
    (Status(), False),
    (WAITING, False),
    (replace(WAITING, reason=Reason.STREAM_MISSING), False),
    (waiting_for_slot(Status(), NOW), False),
    (replace(WAITING, steps=(PROFILE_DONE,)), True),
    (replace(WAITING, busy_count=1), True),
    (replace(WAITING, attempts=1), True),
    (replace(WAITING, attempts=1, misconfigured_count=1, reason=Reason.STEP_MISCONFIGURED), True),
    (replace(WAITING, run=1), True),
    (replace(WAITING, handled_request="retry"), True),
    (replace(WAITING, next_attempt_time=at(5)), True),
    (replace(WAITING, phase=Phase.RUNNING, reason=Reason.RUNNING), True),
    (replace(WAITING, reason=Reason.BACKING_OFF), True),
    (replace(WAITING, reason=None), True),
    (held_status(Reason.REJECTED), True),
]


@pytest.mark.parametrize(("status", "called"), EARLIER)
def test_of_an_earlier_versions_update_what_may_have_been_called_counts_as_called(status: Status, called: bool) -> None:
    assert status.start_time is None
    assert status.called is called


def test_an_earlier_versions_first_step_is_the_earliest_call_that_is_known() -> None:
    status = replace(WAITING, steps=(PROFILE_DONE,))
    assert record(status, Busy("503"), STREAM, at(9), at(10)).start_time == PROFILE_DONE.start_time


class Play:
    """One user's updates as they come, are suspended and resumed; a controller that acts, and now and then restarts."""

    def __init__(self) -> None:
        self.updates: dict[str, UserUpdate] = {}
        self.queue = UserQueue()
        #: Which of them a call of has been answered, or runs.
        self.called: set[str] = set()
        self.stream = STREAM
        self.order: list[str] = []

    def put(self, update: UserUpdate) -> None:
        self.updates[update.name] = update
        self.queue.push(update)

    def unfinished(self) -> dict[str, UserUpdate]:
        return {name: update for name, update in self.updates.items() if not update.status.finished}

    def restart(self) -> None:
        self.queue = make_queue(*self.unfinished().values())
        self.called = {name for name in self.called if self.updates[name].status.start_time}

    def act(self, answer: Outcome | str) -> bool:
        """One turn of the user's worker; whether there was something to do."""
        update = next(iter(self.queue.displaced), None) or self.queue.head
        if update is None:
            return False
        match decide(update, self.queue, self.stream, NOW):
            case RunStep(_) if answer == NO_SLOT:
                return self._write(update, waiting_for_slot(update.status, NOW))
            case RunStep(_):
                self._call(update, answer)
            case RequeueAfter(None, status):
                return self._write(update, status)
            case RequeueAfter(_, status):
                return self._write(update, replace(status, next_attempt_time=None))  # time passes
            case Release(status) | Finish(status):
                return self._write(update, status)
            case decision:
                raise AssertionError(f"the head was told {decision}")
        return True

    def _call(self, update: UserUpdate, answer: Outcome | str) -> None:
        begun = self.called & self.unfinished().keys()
        if update.name not in begun:
            assert not begun, f"{update.name} came before {begun}, which have been called"
            assert update == plainly_next(self.unfinished()), f"{update.name} came before an earlier one"
            self.order.append(update.name)
        self.called.add(update.name)
        self.queue.take(update.name)
        if isinstance(answer, str):
            self.restart()
        else:
            self._write(update, record(update.status, answer, self.stream, NOW, NOW))

    def _write(self, update: UserUpdate, status: Status) -> bool:
        if status == update.status:
            return False
        after = update.with_status(Status.from_body(stored(status)), update.resource_version + 1)
        self.updates[update.name] = after
        if status.finished:
            self.queue.remove(update.name)
        else:
            self.queue.push(after)
        return True

    def rest(self) -> None:
        """Act until there is nothing to do now."""
        while self.act(NO_SLOT):
            pass


def made(sequence: int, source: int, suspend: bool) -> UserUpdate:
    if source == 0:
        return make_update(sequence=sequence, manual=True, suspend=suspend)
    topic_id = {1: TOPIC_ID, 2: OTHER_TOPIC_ID}[source]
    return make_update(sequence=sequence, time=at(-sequence), suspend=suspend, topic_id=topic_id)


ANSWERS = st.sampled_from([Done({}), Busy("503"), Retry("500"), NO_SLOT, CUT_OFF])
ACTIONS = st.one_of(
    st.tuples(st.just("arrive"), st.builds(made, st.integers(0, 9), st.integers(0, 2), st.booleans())),
    st.tuples(st.sampled_from(["suspend", "resume"]), st.integers(0, 9)),
    st.tuples(st.just("stream"), st.sampled_from([STREAM, make_stream(suspend_processing=True), None])),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("act"), ANSWERS),
    st.tuples(st.just("act"), ANSWERS),
)


def play(history: Iterable[tuple[str, Any]]) -> Play:
    world = Play()
    for action, value in history:
        match action:
            case "arrive":
                if value.name not in world.updates:
                    world.put(value)
            case "suspend" | "resume":
                if names := sorted(world.unfinished()):
                    update = world.updates[names[value % len(names)]]
                    world.put(replace(update, spec=replace(update.spec, suspend=action == "suspend")))
            case "stream":
                world.stream = value
            case "restart":
                world.restart()
            case "act":
                world.act(value)
    return world


@given(st.lists(ACTIONS, max_size=60))
def test_whatever_is_called_stays_the_head_and_nothing_else_does(history: list[tuple[str, Any]]) -> None:
    world = play(history)
    world.rest()
    told = [update.name for update in world.unfinished().values() if update.status.phase and not update.status.called]
    assert told in ([], [world.queue.head and world.queue.head.name]), "what is behind the head tells of no wait"
    world.stream = STREAM
    for update in list(world.unfinished().values()):
        world.put(replace(update, spec=replace(update.spec, suspend=False)))
    while world.unfinished():
        world.act(Done({}))


def test_applied_out_of_order_and_suspended_they_run_in_order() -> None:
    history: list[tuple[str, Any]] = []
    for sequence in (3, 1, 2):
        history += [("arrive", made(sequence, 0, True)), ("act", Done({})), ("act", Done({})), ("act", Done({}))]
    world = play(history)
    for update in list(world.updates.values()):
        world.put(replace(update, spec=replace(update.spec, suspend=False)))
    while world.unfinished():
        world.act(Done({}))
    assert [world.updates[name].spec.sequence for name in world.order] == [1, 2, 3]
