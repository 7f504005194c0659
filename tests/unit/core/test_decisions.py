"""Every rule of decide() as a case that can be read: whose turn it is, delays, suspension, holds, requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from controller.api.update_stream import Policy, UpdateStream
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import BEFORE_THE_FIRST_CALL, FINISHED, Phase, Reason, Status
from controller.core.decisions import (
    AwaitPredecessor,
    Decision,
    Finish,
    Release,
    RequeueAfter,
    RunStep,
    WaitTurn,
    decide,
    record,
    step_in_hand,
)
from controller.core.outcomes import Busy
from tests.support.builders import (
    BACKING_OFF_UNTIL_5,
    BUSY_UNTIL_5,
    FINAL,
    NOW,
    PERMISSIONS_DONE,
    PROFILE_DONE,
    RUNNING,
    at,
    held_status,
    make_queue,
    make_stream,
    make_update,
)


def decide_alone(update: UserUpdate, stream: UpdateStream | None = None, now: datetime = NOW) -> Decision:
    return decide(update, make_queue(update), stream or make_stream(), now)


# --- whose turn it is


def test_a_fresh_head_runs_its_first_step() -> None:
    assert decide_alone(make_update()) == RunStep("profile")


@pytest.mark.parametrize(
    ("steps", "want_step"),
    [((), "profile"), ((PROFILE_DONE,), "permissions"), ((PROFILE_DONE, PERMISSIONS_DONE), "resources")],
    ids=["nothing recorded", "profile recorded", "profile and permissions recorded"],
)
def test_a_restarted_controller_goes_on_with_the_first_step_that_is_not_recorded(
    steps: tuple[Any, ...], want_step: str
) -> None:
    update = make_update(status=replace(RUNNING, step=want_step, steps=steps))
    assert decide_alone(update) == RunStep(want_step)
    assert step_in_hand(update.status) == want_step


@pytest.mark.parametrize("phase", sorted(FINISHED))
@pytest.mark.parametrize("request_", [None, "restart", "skip"])
def test_what_is_finished_is_never_run_again(phase: Phase, request_: str | None) -> None:
    assert decide_alone(make_update(status=replace(FINAL, phase=phase), request=request_)) == WaitTurn()


@pytest.mark.parametrize(
    "head",
    [
        make_update(sequence=1),
        make_update(sequence=1, status=BUSY_UNTIL_5),
        make_update(sequence=1, status=held_status(Reason.REJECTED)),
        make_update(sequence=1, suspend=True),
        make_update(sequence=9, partition=1, time=at(99), status=RUNNING),
        make_update(sequence=9, manual=True, time=at(-99)),
    ],
    ids=["queued", "busy", "held", "suspended", "of another source and begun", "hand-made and earlier"],
)
def test_behind_the_head_an_update_waits_its_turn(head: UserUpdate) -> None:
    update = make_update(sequence=2)
    assert decide(update, make_queue(head, update), make_stream(), at(60)) == WaitTurn()


# --- the link to the one before it


def test_an_update_with_a_predecessor_waits_until_that_is_known_to_be_finished_or_gone() -> None:
    update = make_update(after="the-one-before")
    queue, stream = make_queue(update), make_stream()
    assert decide(update, queue, stream, NOW) == AwaitPredecessor("the-one-before")
    assert decide(update, queue, stream, NOW, follows="another") == AwaitPredecessor("the-one-before")
    assert decide(update, queue, stream, NOW, follows="the-one-before") == RunStep("profile")


def test_a_begun_update_had_no_predecessor_left() -> None:
    assert decide_alone(make_update(after="the-one-before", status=RUNNING)) == RunStep("permissions")


@pytest.mark.parametrize("stream", [None, make_stream(suspend_processing=True), make_stream(suspend_users=["ana"])])
def test_a_suspension_gives_no_phase_to_what_may_have_a_predecessor(stream: UpdateStream | None) -> None:
    """It waits for that one first, be it suspended or not."""
    update = make_update(after="the-one-before", suspend=True)
    assert decide(update, make_queue(update), stream, NOW) == AwaitPredecessor("the-one-before")


@pytest.mark.parametrize("reason", sorted(BEFORE_THE_FIRST_CALL))
def test_a_predecessor_is_waited_for_until_the_first_call_whatever_the_phase(reason: Reason) -> None:
    """It was suspended, say, when the one before it was made again, and the controller restarted."""
    status = Status(phase=Phase.WAITING, step="profile", reason=reason, transition_time=NOW)
    update = make_update(after="the-one-before", status=status)
    assert decide_alone(update) == AwaitPredecessor("the-one-before")
    assert decide_alone(replace(update, status=replace(status, start_time=NOW))) == RunStep("profile")


@pytest.mark.parametrize("reason", sorted(BEFORE_THE_FIRST_CALL))
def test_one_that_is_the_head_no_more_does_not_tell_what_it_waited_for(reason: Reason) -> None:
    status = Status(phase=Phase.WAITING, step="profile", reason=reason, transition_time=NOW)
    update = make_update(sequence=2, status=status)
    assert decide(update, make_queue(make_update(sequence=1), update), make_stream(), NOW) == Release(Status())
    called = replace(update, status=replace(status, start_time=NOW))
    first = make_update(sequence=1, status=replace(BUSY_UNTIL_5, start_time=NOW))
    assert decide(called, make_queue(first, called), make_stream(), NOW) == WaitTurn()


# --- delays


@pytest.mark.parametrize(
    ("now", "want"),
    [
        (at(4.999999), RequeueAfter(at(5), BUSY_UNTIL_5)),
        (at(5), RunStep("profile")),
        (at(6000), RunStep("profile")),
    ],
    ids=["a microsecond early", "on time", "long after a restart"],
)
def test_a_delay_is_kept_to_the_microsecond(now: datetime, want: Decision) -> None:
    assert decide_alone(make_update(status=BUSY_UNTIL_5), now=now) == want


# --- suspension

SUSPENSIONS = [
    pytest.param(
        False, None, Reason.STREAM_MISSING, "there is no UpdateStream user-updates in this namespace", id="no stream"
    ),
    pytest.param(
        False,
        make_stream(suspend_processing=True),
        Reason.STREAM_SUSPENDED,
        "processing of the stream is suspended",
        id="stream",
    ),
    pytest.param(
        False,
        make_stream(suspend_users=["ana", "ben"]),
        Reason.SUSPENDED,
        "the user is suspended in the stream",
        id="user",
    ),
    pytest.param(True, make_stream(), Reason.SUSPENDED, "the update is suspended", id="update"),
]


@pytest.mark.parametrize(("suspend", "stream", "want_reason", "want_message"), SUSPENSIONS)
def test_a_suspended_head_waits_without_end_and_says_why(
    suspend: bool, stream: UpdateStream | None, want_reason: Reason, want_message: str
) -> None:
    update = make_update(suspend=suspend)
    decision = decide(update, make_queue(update), stream, NOW)
    assert decision == RequeueAfter(
        None,
        Status(
            phase=Phase.WAITING,
            step="profile",
            reason=want_reason,
            message=want_message,
            transition_time=NOW,
        ),
    )


@pytest.mark.parametrize(
    ("reason", "mended", "runs"),
    [
        (Reason.STEP_MISCONFIGURED, (Reason.STEP_MISCONFIGURED,), True),
        (Reason.STEP_MISCONFIGURED, (), False),
        (Reason.BACKING_OFF, (Reason.STEP_MISCONFIGURED, Reason.BACKING_OFF), True),
        (Reason.BACKING_OFF, (Reason.STEP_MISCONFIGURED,), False),
        (Reason.DOWNSTREAM_BUSY, (Reason.STEP_MISCONFIGURED, Reason.BACKING_OFF), False),
    ],
)
def test_a_delay_is_over_once_what_it_blames_was_changed(
    reason: Reason, mended: tuple[Reason, ...], runs: bool
) -> None:
    update = make_update(status=replace(BACKING_OFF_UNTIL_5, reason=reason))
    decision = decide(update, make_queue(update), make_stream(), NOW, mended=mended)
    assert (decision == RunStep("profile")) is runs
    assert runs or decision == RequeueAfter(at(5), update.status)


@pytest.mark.parametrize(("suspend", "stream", "want_reason", "_message"), SUSPENSIONS)
@pytest.mark.parametrize("status", [BUSY_UNTIL_5, BACKING_OFF_UNTIL_5], ids=["busy", "backing off"])
def test_a_suspension_and_its_end_keep_the_delay_and_the_counters(
    suspend: bool, stream: UpdateStream | None, want_reason: Reason, _message: str, status: Status
) -> None:
    update = make_update(suspend=suspend, status=status)
    suspended = decide(update, make_queue(update), stream, at(1))
    assert isinstance(suspended, RequeueAfter)
    assert suspended.at is None
    assert suspended.status.reason == want_reason
    unchanged = replace(suspended.status, reason=status.reason, message=status.message)
    assert unchanged == status

    resumed = make_update(status=suspended.status)
    decision = decide_alone(resumed, now=at(2))
    assert isinstance(decision, RequeueAfter)
    assert decision.at == at(5)
    assert decision.status.reason == status.reason
    assert decide_alone(make_update(status=decision.status), now=at(3)) == RequeueAfter(at(5), decision.status)
    assert decide_alone(resumed, now=at(5)) == RunStep("profile")


@pytest.mark.parametrize(("suspend", "stream", "_reason", "_message"), SUSPENSIONS)
def test_a_suspension_is_written_once(
    suspend: bool, stream: UpdateStream | None, _reason: Reason, _message: str
) -> None:
    update = make_update(suspend=suspend, status=RUNNING)
    first = decide(update, make_queue(update), stream, NOW)
    assert isinstance(first, RequeueAfter)
    again = make_update(suspend=suspend, status=first.status)
    assert decide(again, make_queue(again), stream, at(60)) == first


def test_suspending_another_user_or_the_intake_suspends_nobody() -> None:
    stream = make_stream(suspend_users=["ben", "an", "ana "])
    stream = replace(stream, suspend=replace(stream.suspend, ingest=True))
    assert decide_alone(make_update(user="ana"), stream) == RunStep("profile")


# --- held


HOLDING: list[tuple[Reason, dict[str, Policy]]] = [
    (Reason.REJECTED, {"on_rejected": "Hold", "on_exhausted": "Continue"}),
    (Reason.EXHAUSTED, {"on_rejected": "Continue", "on_exhausted": "Hold"}),
]


@pytest.mark.parametrize(("reason", "policies"), HOLDING)
def test_a_held_head_waits_for_a_person_and_is_not_written_again(reason: Reason, policies: Any) -> None:
    held = held_status(reason)
    assert decide_alone(make_update(status=held), make_stream(**policies), at(9999)) == RequeueAfter(None, held)


@pytest.mark.parametrize(("reason", "policies"), HOLDING)
def test_a_held_head_is_released_by_its_own_policy_becoming_continue(reason: Reason, policies: Any) -> None:
    stream = make_stream(on_rejected="Continue", on_exhausted="Continue")
    decision = decide_alone(make_update(status=held_status(reason)), stream, at(60))
    assert decision == Finish(
        Status(
            phase=Phase.FAILED,
            step="profile",
            attempts=1,
            reason=reason,
            message="400 from profile",
            transition_time=at(60),
        )
    )


@pytest.mark.parametrize("reason", [Reason.REJECTED, Reason.EXHAUSTED])
def test_a_held_head_stays_held_while_its_stream_is_missing(reason: Reason) -> None:
    update = make_update(status=held_status(reason))
    assert decide(update, make_queue(update), None, at(60)) == RequeueAfter(None, update.status)


# --- requests


@pytest.mark.parametrize("request_", ["skip", "skip:token", "cancel", "cancel:2"])
@pytest.mark.parametrize(
    "status",
    [Status(), RUNNING, BUSY_UNTIL_5, held_status(Reason.REJECTED)],
    ids=["queued", "running", "busy", "held"],
)
def test_skip_and_cancel_finish_an_update_in_any_state(request_: str, status: Status) -> None:
    want_phase, want_reason = {
        "skip": (Phase.SKIPPED, Reason.SKIPPED_BY_REQUEST),
        "canc": (Phase.CANCELLED, Reason.CANCELLED_BY_REQUEST),
    }[request_[:4]]
    decision = decide_alone(make_update(status=status, request=request_), now=at(1))
    assert isinstance(decision, Finish)
    assert (decision.status.phase, decision.status.reason) == (want_phase, want_reason)
    assert decision.status.transition_time == at(1)
    assert decision.status.handled_request == request_
    assert decision.status.held is None
    assert decision.status.next_attempt_time is None
    assert decision.status.steps == status.steps


def test_skip_needs_no_turn_no_stream_and_no_predecessor() -> None:
    update = make_update(sequence=2, after="the-one-before", request="skip", suspend=True)
    assert isinstance(decide(update, make_queue(make_update(sequence=1), update), None, NOW), Finish)


@pytest.mark.parametrize("status", [BUSY_UNTIL_5, BACKING_OFF_UNTIL_5, held_status(Reason.EXHAUSTED, attempts=3)])
def test_retry_runs_the_step_in_hand_at_once_with_all_its_attempts(status: Status) -> None:
    update = make_update(status=replace(status, steps=(PROFILE_DONE,), step="permissions"), request="retry")
    decision = decide_alone(update, now=at(1))
    want = replace(RUNNING, handled_request="retry", message="retry by request")
    assert decision == Release(want)
    assert decide_alone(make_update(status=want, request="retry"), now=at(1)) == RunStep("permissions")


def test_restart_does_all_steps_again_under_new_keys() -> None:
    update = make_update(status=replace(RUNNING, run=2, attempts=3, busy_count=4), request="restart:now")
    decision = decide_alone(update)
    want = Status(
        phase=Phase.RUNNING,
        step="profile",
        run=3,
        reason=Reason.RUNNING,
        message="restart by request",
        transition_time=NOW,
        handled_request="restart:now",
    )
    assert decision == Release(want)
    again = make_update(status=want, request="restart:now")
    assert decide_alone(again) == RunStep("profile")
    assert again.idempotency_key("profile") != update.idempotency_key("profile")


def test_retry_keeps_the_idempotency_key() -> None:
    update = make_update(status=BUSY_UNTIL_5, request="retry")
    decision = decide_alone(update)
    assert isinstance(decision, Release)
    assert make_update(status=decision.status).idempotency_key("profile") == update.idempotency_key("profile")


def test_a_retry_that_came_during_the_first_call_is_acted_upon_after_it() -> None:
    status = record(Status(), Busy("503"), make_stream(), NOW, NOW)
    assert isinstance(decide_alone(make_update(status=status, request="retry:2")), Release)


@pytest.mark.parametrize("verb", ["retry", "restart"])
def test_retry_and_restart_keep_the_time_of_the_first_call(verb: str) -> None:
    decision = decide_alone(make_update(status=replace(BUSY_UNTIL_5, start_time=at(-9)), request=verb))
    assert isinstance(decision, Release)
    assert decision.status.start_time == at(-9)


@pytest.mark.parametrize("verb", ["retry", "restart"])
def test_retry_and_restart_leave_a_suspension_in_force(verb: str) -> None:
    released = decide_alone(make_update(status=held_status(Reason.REJECTED), request=verb, suspend=True))
    assert isinstance(released, Release)
    decision = decide_alone(make_update(status=released.status, request=verb, suspend=True))
    assert isinstance(decision, RequeueAfter)
    assert decision.status.reason is Reason.SUSPENDED


@pytest.mark.parametrize("verb", ["retry", "restart"])
def test_a_request_is_acted_upon_once_and_again_with_another_token(verb: str) -> None:
    status = replace(BUSY_UNTIL_5, handled_request=f"{verb}:1")
    assert isinstance(decide_alone(make_update(status=status, request=f"{verb}:1")), RequeueAfter)
    assert isinstance(decide_alone(make_update(status=status, request=f"{verb}:2")), Release)
    assert isinstance(decide_alone(make_update(status=status, request=verb)), Release)
