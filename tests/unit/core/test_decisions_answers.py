"""Every rule of record() as a case that can be read: what one answer of a downstream leaves in the status."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.update_stream import RetrySpec, UpdateStream
from controller.api.user_update_status import Phase, Reason, Status, condition_status
from controller.core.decisions import (
    RequeueAfter,
    RunStep,
    backoff_seconds,
    decide,
    record,
    waiting_for_slot,
    waiting_to_be_callable,
)
from controller.core.outcomes import Busy, Done, Misconfigured, Outcome, Rejected, Retry
from tests.support.builders import (
    BACKING_OFF_UNTIL_5,
    BUSY_UNTIL_5,
    FINAL,
    NOW,
    PERMISSIONS_DONE,
    PROFILE_DONE,
    RESOURCES_DONE,
    RUNNING,
    at,
    make_queue,
    make_stream,
    make_update,
)

QUEUED, STREAM = Status(), make_stream()


def after(outcome: Outcome, status: Status | None = None, stream: UpdateStream | None = None, **values: Any) -> Status:
    """The status after a call of one second that ends at NOW."""
    return record(status or Status(), outcome, stream or make_stream(), at(-1), NOW, **values)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One call from the state before it to the state after it; `want` names what the status must hold."""

    outcome: Outcome
    before: Status = QUEUED
    stream: UpdateStream = STREAM
    want: dict[str, Any]


FAILED_TWICE = replace(BACKING_OFF_UNTIL_5, attempts=2)
LIMIT_3 = make_stream(max_attempts=3)
ANSWERS = {
    "the first step is done": Answer(
        outcome=Done({"userId": "u-1"}),
        want={"phase": Phase.RUNNING, "step": "permissions", "results": {"userId": "u-1"}, "reason": Reason.RUNNING},
    ),
    "the last step is done": Answer(
        outcome=Done({}),
        before=replace(RUNNING, step="resources", steps=(PROFILE_DONE, PERMISSIONS_DONE)),
        want={
            "phase": Phase.SUCCEEDED,
            "step": None,
            "results": {"userId": "u-1", "roleId": "r-1"},
            "reason": Reason.SUCCEEDED,
            "completion_time": NOW,
        },
    ),
    "both counters and the delay start anew with the next step": Answer(
        outcome=Done({"userId": "u-1"}),
        before=replace(FAILED_TWICE, busy_count=7),
        want={"step": "permissions", "attempts": 0, "busy_count": 0, "next_attempt_time": None},
    ),
    "busy is no failure": Answer(
        outcome=Busy("503 from profile"),
        before=FAILED_TWICE,
        want={
            "phase": Phase.WAITING,
            "step": "profile",
            "attempts": 2,
            "busy_count": 1,
            "next_attempt_time": at(5),
            "reason": Reason.DOWNSTREAM_BUSY,
            "message": "503 from profile, again at 12:00:05",
        },
    ),
    "busy is counted": Answer(
        outcome=Busy("NOT_READY from profile"), before=replace(BUSY_UNTIL_5, busy_count=41), want={"busy_count": 42}
    ),
    "busy never exhausts": Answer(
        outcome=Busy("429 from profile"),
        before=replace(BUSY_UNTIL_5, busy_count=999, attempts=2),
        stream=LIMIT_3,
        want={"phase": Phase.WAITING, "attempts": 2, "busy_count": 1000, "held": None},
    ),
    "Retry-After goes before the stream's busy delay": Answer(
        outcome=Busy("503 from profile", retry_after=7.5), want={"next_attempt_time": at(7.5)}
    ),
    "the stream's busy delay, to the fraction": Answer(
        outcome=Busy("503 from profile"), stream=make_stream(busy_delay=0.25), want={"next_attempt_time": at(0.25)}
    ),
    "the first failure": Answer(
        outcome=Retry("500 from profile"),
        before=replace(BUSY_UNTIL_5, busy_count=3),
        want={
            "phase": Phase.WAITING,
            "step": "profile",
            "attempts": 1,
            "busy_count": 3,
            "next_attempt_time": at(1),
            "reason": Reason.BACKING_OFF,
            "message": "500 from profile, again at 12:00:01",
        },
    ),
    "the third failure waits longer": Answer(
        outcome=Retry("500 from profile"), before=FAILED_TWICE, want={"attempts": 3, "next_attempt_time": at(4)}
    ),
    "the last attempt but one": Answer(
        outcome=Retry("500"),
        before=replace(FAILED_TWICE, attempts=1),
        stream=LIMIT_3,
        want={"attempts": 2, "phase": Phase.WAITING, "reason": Reason.BACKING_OFF, "next_attempt_time": at(2)},
    ),
    "maxAttempts used up, Hold": Answer(
        outcome=Retry("500 from profile"),
        before=FAILED_TWICE,
        stream=LIMIT_3,
        want={
            "phase": Phase.WAITING,
            "step": "profile",
            "attempts": 3,
            "reason": Reason.HELD,
            "held": Reason.EXHAUSTED,
            "message": "500 from profile, after 3 attempts",
            "next_attempt_time": None,
            "completion_time": None,
        },
    ),
    "maxAttempts used up, Continue": Answer(
        outcome=Retry("500 from profile"),
        before=FAILED_TWICE,
        stream=make_stream(max_attempts=3, on_exhausted="Continue"),
        want={
            "phase": Phase.FAILED,
            "step": "profile",
            "attempts": 3,
            "reason": Reason.EXHAUSTED,
            "held": None,
            "next_attempt_time": None,
            "completion_time": NOW,
        },
    ),
    "a single attempt allowed": Answer(
        outcome=Retry("500 from profile"), stream=make_stream(max_attempts=1), want={"held": Reason.EXHAUSTED}
    ),
    "no limit is no limit": Answer(
        outcome=Retry("500"),
        before=replace(FAILED_TWICE, attempts=999_999),
        want={"attempts": 1_000_000, "phase": Phase.WAITING, "next_attempt_time": at(60)},
    ),
    "misconfigured backs off like a failure": Answer(
        outcome=Misconfigured("401 from profile"),
        before=FAILED_TWICE,
        want={"phase": Phase.WAITING, "attempts": 3, "reason": Reason.STEP_MISCONFIGURED, "next_attempt_time": at(4)},
    ),
    "misconfigured never exhausts": Answer(
        outcome=Misconfigured("401 from profile"),
        before=replace(FAILED_TWICE, attempts=500),
        stream=LIMIT_3,
        want={"phase": Phase.WAITING, "reason": Reason.STEP_MISCONFIGURED, "held": None, "next_attempt_time": at(60)},
    ),
    "rejected, Continue": Answer(
        outcome=Rejected("422 from profile"),
        before=FAILED_TWICE,
        stream=make_stream(on_rejected="Continue", on_exhausted="Hold"),
        want={
            "phase": Phase.FAILED,
            "attempts": 3,
            "reason": Reason.REJECTED,
            "message": "422 from profile",
            "next_attempt_time": None,
            "held": None,
            "completion_time": NOW,
        },
    ),
    "rejected, Hold": Answer(
        outcome=Rejected("422 from profile"),
        stream=make_stream(on_rejected="Hold", on_exhausted="Continue"),
        want={"phase": Phase.WAITING, "step": "profile", "reason": Reason.HELD, "held": Reason.REJECTED},
    ),
    "a long message is cut": Answer(outcome=Rejected("x" * 5000), want={"message": "x" * 1024}),
    "skipped while the call ran": Answer(
        outcome=Done({"userId": "u-1"}),
        before=replace(FINAL, phase=Phase.SKIPPED, reason=Reason.SKIPPED_BY_REQUEST),
        want={"phase": Phase.SKIPPED, "reason": Reason.SKIPPED_BY_REQUEST, "steps": (PROFILE_DONE,)},
    ),
    "failed while all steps are recorded": Answer(
        outcome=Retry("timed out"),
        before=replace(FINAL, steps=(PROFILE_DONE, PERMISSIONS_DONE, RESOURCES_DONE)),
        want={"phase": Phase.SUCCEEDED, "attempts": 0},
    ),
}


@pytest.mark.parametrize("case", ANSWERS.values(), ids=ANSWERS.keys())
def test_record(case: Answer) -> None:
    status = after(case.outcome, case.before, case.stream)
    assert {name: getattr(status, name) for name in case.want} == case.want


@pytest.mark.parametrize(
    ("outcomes", "want_attempts"),
    [
        ([], 1),
        ([Busy("503")] * 5, 1),
        ([Retry("500"), Retry("500")], 3),
        ([Busy("503"), Retry("500"), Busy("503"), Misconfigured("401")], 3),
    ],
    ids=["at once", "after being busy", "after failures", "after all of them"],
)
def test_a_finished_step_tells_its_calls_without_the_busy_ones(outcomes: list[Outcome], want_attempts: int) -> None:
    status = Status()
    for outcome in outcomes:
        status = after(outcome, status)
    done = record(status, Done({"userId": "u-1"}), make_stream(), at(7), at(8))
    (step,) = done.steps
    assert (step.name, step.attempts, step.result) == ("profile", want_attempts, {"userId": "u-1"})
    assert (step.start_time, step.completion_time) == (at(7), at(8))


def test_a_step_has_its_own_policy() -> None:
    stream = make_stream()
    slow = replace(stream.steps["permissions"], busy_delay_seconds=30, retry=RetrySpec(10, 60, 2, 1))
    stream = replace(stream, steps={**stream.steps, "permissions": slow})
    assert after(Busy("503"), RUNNING, stream).next_attempt_time == at(30)
    assert after(Busy("503"), Status(), stream).next_attempt_time == at(5)
    assert after(Retry("500"), RUNNING, stream).held is Reason.EXHAUSTED
    assert after(Retry("500"), Status(), stream).held is None


def test_the_transition_time_changes_with_the_conditions_status_and_with_nothing_else() -> None:
    status = record(Status(), Busy("503"), make_stream(), NOW, at(1))
    assert status.transition_time == at(1)
    outcomes: list[Outcome] = [Retry("500"), Done({"userId": "u"}), Busy("503"), Done({"roleId": "r"})]
    for second, outcome in enumerate(outcomes, 2):
        status = record(status, outcome, make_stream(), NOW, at(second))
        assert status.transition_time == at(1)
    update = make_update(status=status)
    suspended = decide(update, make_queue(update), None, at(7))
    assert isinstance(suspended, RequeueAfter)
    assert suspended.status.transition_time == at(1)
    status = record(suspended.status, Done({}), make_stream(), NOW, at(9))
    assert (status.transition_time, condition_status(status.phase)) == (at(9), "True")


def test_waiting_for_one_of_the_steps_calls_is_told_and_changes_nothing_else() -> None:
    waiting = waiting_for_slot(RUNNING, at(3))
    assert waiting.reason is Reason.STEP_CONCURRENCY
    assert "permissions" in waiting.message
    assert replace(waiting, phase=RUNNING.phase, reason=RUNNING.reason, message=RUNNING.message) == RUNNING
    assert waiting_for_slot(waiting, at(9)) == waiting
    update = make_update(status=waiting)
    assert decide(update, make_queue(update), make_stream(), NOW) == RunStep("permissions")


@pytest.mark.parametrize(
    "to_wait", [waiting_for_slot, lambda status, now: waiting_to_be_callable(status, "there is no Secret x", now)]
)
def test_a_delay_that_a_correction_has_ended_is_not_waited_for_after_all(
    to_wait: Callable[[Status, datetime], Status],
) -> None:
    """It lost its place in the line, said that it waits for its time, and came again: two writes a second for each."""
    update = make_update(status=to_wait(BACKING_OFF_UNTIL_5, at(1)))
    for now in (at(1), at(5)):
        decision = decide(update, make_queue(update), STREAM, now, mended=(Reason.BACKING_OFF,))
        assert decision == RunStep("profile")
    assert replace(update.status, reason=None, message="", next_attempt_time=at(5)) == replace(
        BACKING_OFF_UNTIL_5, reason=None, message=""
    )


# --- backoff


@pytest.mark.parametrize(
    ("retry", "want"),
    [
        (RetrySpec(), [1, 2, 4, 8, 16, 32, 60, 60]),
        (RetrySpec(initial_seconds=3, factor=1), [3, 3, 3, 3]),
        (RetrySpec(initial_seconds=0.5, max_seconds=2, factor=1.5), [0.5, 0.75, 1.125, 1.6875, 2, 2]),
        (RetrySpec(initial_seconds=90, max_seconds=60), [60, 60]),
    ],
    ids=["the default", "factor 1 does not grow", "fractions", "the cap goes before the first delay"],
)
def test_backoff_grows_by_the_factor_up_to_the_cap(retry: RetrySpec, want: list[float]) -> None:
    assert [backoff_seconds(retry, failures) for failures in range(1, len(want) + 1)] == want


@pytest.mark.parametrize("factor", [1.01, 2, 2.0, 100, 100.0])
def test_backoff_reaches_the_cap_and_stays_there_whatever_the_factor(factor: float) -> None:
    retry = RetrySpec(factor=factor)
    assert backoff_seconds(retry, 1000) == 60
    assert backoff_seconds(retry, 2**31 - 1) == 60


RETRIES = st.builds(
    RetrySpec,
    initial_seconds=st.floats(0.01, 86400),
    max_seconds=st.floats(0.01, 86400),
    factor=st.one_of(st.integers(1, 100), st.floats(1, 100)),
)


#: The time of the next attempt is a whole one, rounded up.
MILLISECOND = timedelta(milliseconds=1)


def longest(seconds: float) -> timedelta:
    """Far below what is promised: 10 % and a second late at most."""
    return timedelta(seconds=min(1.15 * seconds, 1.05 * seconds + 0.4))


@given(RETRIES, st.integers(0, 2**31 - 2), st.floats(0, 1))
def test_backoff_never_shrinks_never_passes_the_cap_and_jitter_only_lengthens(
    retry: RetrySpec, failures: int, jitter: float
) -> None:
    seconds = backoff_seconds(retry, failures + 1)
    assert 0 < seconds <= retry.max_seconds
    assert seconds <= backoff_seconds(retry, failures + 2)
    stream = make_stream(initial=retry.initial_seconds, maximum=retry.max_seconds, factor=retry.factor)
    status = after(Retry("500"), Status(attempts=failures), stream, jitter=jitter)
    assert status.next_attempt_time is not None
    delay, microsecond = status.next_attempt_time - NOW, timedelta(microseconds=1)
    assert timedelta(seconds=seconds) - microsecond <= delay < longest(seconds) + MILLISECOND + microsecond


@given(st.floats(0, 1), st.one_of(st.none(), st.floats(1, 300)))
def test_jitter_only_lengthens_busy_delays_too(jitter: float, asked: float | None) -> None:
    status = after(Busy("503", asked), jitter=jitter)
    assert status.next_attempt_time is not None
    delay, microsecond = status.next_attempt_time - NOW, timedelta(microseconds=1)
    seconds = 5 if asked is None else asked
    assert timedelta(seconds=seconds) - microsecond <= delay < longest(seconds) + MILLISECOND + microsecond


def test_failures_that_blame_the_stream_leave_the_attempts_for_real_ones() -> None:
    stream = make_stream(max_attempts=2, on_exhausted="Continue")
    status = Status()
    for _ in range(5):
        status = record(status, Misconfigured("401 from profile"), stream, NOW, NOW)
    status = record(status, Retry("500 from profile"), stream, NOW, NOW)
    assert (status.phase, status.attempts) == (Phase.WAITING, 6)
    status = record(status, Retry("500 from profile"), stream, NOW, NOW)
    assert (status.phase, status.reason) == (Phase.FAILED, Reason.EXHAUSTED)
