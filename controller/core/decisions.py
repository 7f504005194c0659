"""Decides what to do with an update, and computes the status after each call. Pure: frozen values, no clock, no I/O.

`decide` says what comes next, the reconciler does it, and `record` turns the outcome into the next status. Both are
level-based, as controller-runtime asks of a reconciler: they read spec and status as they are, never what has changed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeAlias, assert_never

from controller.api import requests, timestamps
from controller.api.requests import RefusedRequest
from controller.api.update_stream import Policy, RetrySpec, UpdateStream
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import FINISHED, Phase, Reason, Status, StepRecord
from controller.core.outcomes import Busy, Done, Misconfigured, Outcome, Rejected, Retry
from controller.core.steps import STEPS
from controller.core.user_queue import UserQueue

#: Delays are lengthened by up to this share of them, short ones by more, and none is shortened. So a hundred users who
#: met a busy downstream together do not come back together, with a hundred calls and writes ahead of everybody else's.
JITTER = 0.05
SHORT_JITTER, SHORT_JITTER_SECONDS = 0.1, 0.4


@dataclass(frozen=True, slots=True)
class RunStep:
    """Call this step now."""

    step: str


@dataclass(frozen=True, slots=True)
class WaitTurn:
    """Do nothing: another update of the user comes first, or this one is finished, or it is not understood."""


@dataclass(frozen=True, slots=True)
class AwaitPredecessor:
    """Look up the update before this one (`source.after`): the watch may not have shown it yet."""

    name: str


@dataclass(frozen=True, slots=True)
class RequeueAfter:
    """Decide again at `at`; None: when something changes. Write `status` before that, where it differs."""

    at: datetime | None
    status: Status


@dataclass(frozen=True, slots=True)
class Release:
    """Write this status and decide again: a request was done, or the status before no longer says what is."""

    status: Status


@dataclass(frozen=True, slots=True)
class Finish:
    """Write this final status. Then it is the turn of the next update in the queue."""

    status: Status


Decision: TypeAlias = RunStep | WaitTurn | AwaitPredecessor | RequeueAfter | Release | Finish


def decide(
    update: UserUpdate,
    queue: UserQueue,
    stream: UpdateStream | None,
    now: datetime,
    *,
    follows: str | None = None,
    mended: Collection[Reason] = (),
) -> Decision:
    """The decision what to do with `update` next.

    `stream` is None where the UpdateStream is missing. `follows` names a predecessor that is known to be finished or
    gone. Delays for the reasons `mended` are over, because what they blame has changed since the last call. `now` is
    aware.
    """
    status = update.status
    if status.finished or update.unreadable:
        return WaitTurn()
    verb = ""
    if (request := update.pending_request) is not None:
        if refused := refusal(update, now):
            return Release(refused)
        verb = requests.verb(request)
    if verb in _REQUESTED_END:
        return Finish(_at(_handled(update), *_REQUESTED_END[verb], now))
    if queue.head is not update:
        # It was the head (suspended, say) until an earlier one came: its status no longer says what it waits for.
        return Release(_queued(status)) if status.phase and not status.called else WaitTurn()
    after = update.spec.source.after if update.spec.source else None
    if after and after != follows and not status.called:
        return AwaitPredecessor(after)
    if verb in requests.AGAIN:
        return Release(_again_by_request(update, verb, now))
    if status.held:
        return _while_held(update, stream, now)
    if stopped := _stopped_by(update, stream):
        return RequeueAfter(None, _waiting(status, *stopped, now))
    if status.next_attempt_time and status.next_attempt_time > now and status.reason not in mended:
        return RequeueAfter(status.next_attempt_time, _delayed(status, now))
    return RunStep(step_in_hand(status))


def refusal(update: UserUpdate, now: datetime) -> Status | None:
    """The status that says why the pending request cannot be done; None where there is none, or it can be done.

    A refused request is not written as `handledRequest`: earlier versions take an update that has one as called.
    """
    request, status = update.pending_request, update.status
    if request is None or update.unreadable:
        return None
    verb = requests.verb(request)
    if verb not in requests.VERBS:
        why = f"{verb!r} is none of {', '.join(requests.VERBS)}"
    elif status.finished:
        why = f"the update is finished ({status.phase}), and nothing is done to a finished one"
    elif verb in requests.AGAIN and not status.called:
        why = "the update has not been called yet: its first call comes in its turn"
    else:
        return None
    return replace(status, refused_request=RefusedRequest(request, why, now))


def record(
    status: Status,
    outcome: Outcome,
    stream: UpdateStream,
    started: datetime,
    now: datetime,
    jitter: float = 0.0,
) -> Status:
    """The status after a call of the step in hand.

    The call began at `started` and ended at `now`, both aware; `jitter` is a random number from 0 to 1. An update that
    was finished (skipped, say) while the call ran stays finished.
    """
    if status.finished:
        return status
    status = _called(status, started)
    step = step_in_hand(status)
    match outcome:
        case Done(result):
            return _done(status, StepRecord(step, result, status.attempts + 1, started, now), now)
        case Busy(message, retry_after):
            delay = retry_after if retry_after is not None else stream.steps[step].busy_delay_seconds
            at = _due(now, delay, jitter)
            waiting = _waiting(status, Reason.DOWNSTREAM_BUSY, _again(message, at), now, step, at)
            return replace(waiting, busy_count=status.busy_count + 1)
        case Rejected(message):
            failed = replace(status, step=step, attempts=status.attempts + 1)
            return _final(failed, Reason.REJECTED, message, stream.on_rejected, now)
        case Retry(message) | Misconfigured(message):
            failed = replace(status, step=step, attempts=status.attempts + 1)
            return _failed(failed, outcome, message, stream, now, jitter)
        case _:
            assert_never(outcome)


def step_in_hand(status: Status) -> str:
    """The first step without a checkpoint."""
    return STEPS[len(status.steps)].name


def waiting_to_be_callable(status: Status, message: str, now: datetime) -> Status:
    """The status while the step in hand cannot be called, for the reason `message`. Nothing was sent: no attempt."""
    return _waiting(_due_now(status), Reason.STEP_MISCONFIGURED, message, now)


def being_called(status: Status, step: str, started: datetime) -> Status:
    """The status while a call lasts. It no longer says what the update waited for; its counters stay."""
    message = f"{step} is being called since {started:%H:%M:%S}"
    return _at(replace(_due_now(status), step=step), Phase.RUNNING, Reason.RUNNING, message, started)


def waiting_for_slot(status: Status, now: datetime) -> Status:
    """The status while as many calls of the step in hand run as its `concurrency` allows."""
    step = step_in_hand(status)
    return _waiting(
        _due_now(status), Reason.STEP_CONCURRENCY, f"all calls that {step} may have at a time are in use", now
    )


def _due_now(status: Status) -> Status:
    """The delay is over, by time or because its cause was mended. It is not waited for again."""
    return replace(status, next_attempt_time=None)


def backoff_seconds(retry: RetrySpec, failures: int) -> float:
    """Seconds until the next attempt, after so many failures in a row (1 or more)."""
    try:
        return min(retry.max_seconds, retry.initial_seconds * float(retry.factor) ** (failures - 1))
    except OverflowError:
        return retry.max_seconds


def _due(now: datetime, delay: float, jitter: float) -> datetime:
    """When a delay in seconds is over, with its jitter (0 to 1); in whole milliseconds, which people can read."""
    lengthened = delay + (delay * JITTER + min(delay * SHORT_JITTER, SHORT_JITTER_SECONDS)) * jitter
    return timestamps.whole_milliseconds(now + timedelta(seconds=lengthened))


def _called(status: Status, started: datetime) -> Status:
    """A call was answered."""
    if status.start_time is not None:
        return status
    # An earlier version did not write it. Where it stored steps, the first step's start is the earliest that is known.
    return replace(status, start_time=status.steps[0].start_time if status.steps else started)


def _done(status: Status, record: StepRecord, now: datetime) -> Status:
    steps = (*status.steps, record)
    base = replace(
        status, steps=steps, attempts=0, misconfigured_count=0, busy_count=0, next_attempt_time=None, held=None
    )
    if len(steps) == len(STEPS):
        return _at(replace(base, step=None), Phase.SUCCEEDED, Reason.SUCCEEDED, "all steps done", now)
    following = STEPS[len(steps)].name
    return _at(
        replace(base, step=following), Phase.RUNNING, Reason.RUNNING, f"{record.name} done, {following} next", now
    )


def _afresh(status: Status) -> Status:
    """The counters of the step in hand are 0 again."""
    return replace(status, attempts=0, misconfigured_count=0, busy_count=0)


def _failed(
    failed: Status, outcome: Retry | Misconfigured, message: str, stream: UpdateStream, now: datetime, jitter: float
) -> Status:
    """After a failure that may pass. A stream's fault exhausts no update: an expired token must not fail them all."""
    retry = stream.steps[step_in_hand(failed)].retry
    misconfigured = isinstance(outcome, Misconfigured)
    if misconfigured:
        failed = replace(failed, misconfigured_count=failed.misconfigured_count + 1)
    elif 0 < retry.max_attempts <= failed.attempts - failed.misconfigured_count:
        used_up = f"{message}, after {failed.attempts} attempts"
        return _final(failed, Reason.EXHAUSTED, used_up, stream.on_exhausted, now)
    at = _due(now, backoff_seconds(retry, failed.attempts), jitter)
    reason = Reason.STEP_MISCONFIGURED if misconfigured else Reason.BACKING_OFF
    return _waiting(failed, reason, _again(message, at), now, failed.step, at)


def _final(status: Status, reason: Reason, message: str, policy: Policy, now: datetime) -> Status:
    status = replace(status, next_attempt_time=None)
    if policy == "Hold":
        held = replace(status, held=reason)
        return _at(held, Phase.WAITING, Reason.HELD, message, now)
    return _at(replace(status, held=None), Phase.FAILED, reason, message, now)


def _while_held(update: UserUpdate, stream: UpdateStream | None, now: datetime) -> Decision:
    """A held update waits until a person or the policy releases it; while it is suspended, the policy does not."""
    status = update.status
    assert status.held is not None
    policies = {Reason.REJECTED: stream.on_rejected, Reason.EXHAUSTED: stream.on_exhausted} if stream else {}
    if policies.get(status.held) == "Continue" and not _stopped_by(update, stream):
        return Finish(_final(status, status.held, status.message, "Continue", now))
    return RequeueAfter(None, status)


def _stopped_by(update: UserUpdate, stream: UpdateStream | None) -> tuple[Reason, str] | None:
    """Why the update must not run: the reason, and a message for people; None: it may."""
    if stream is None:
        return Reason.STREAM_MISSING, f"there is no UpdateStream {update.spec.stream} in this namespace"
    if stream.suspend.processing:
        return Reason.STREAM_SUSPENDED, "processing of the stream is suspended"
    if update.spec.user in stream.suspend.users:
        return Reason.SUSPENDED, "the user is suspended in the stream"
    if update.spec.suspend:
        return Reason.SUSPENDED, "the update is suspended"
    return None


def _delayed(status: Status, now: datetime) -> Status:
    """Waiting for its time. The message about the delay comes back where a suspension had replaced it."""
    if status.delayed:
        return status
    assert status.next_attempt_time is not None
    reason = Reason.BACKING_OFF if status.attempts else Reason.DOWNSTREAM_BUSY
    message = _again("delayed", status.next_attempt_time)
    return _waiting(status, reason, message, now, status.step, status.next_attempt_time)


_REQUESTED_END = {
    "skip": (Phase.SKIPPED, Reason.SKIPPED_BY_REQUEST, "skipped by request"),
    "cancel": (Phase.CANCELLED, Reason.CANCELLED_BY_REQUEST, "cancelled by request"),
}


def _queued(status: Status) -> Status:
    """Without a phase, as in the queue. The answer to a refused request stays."""
    return Status(refused_request=status.refused_request)


def _handled(update: UserUpdate) -> Status:
    status = replace(update.status, held=None, next_attempt_time=None)
    return replace(status, handled_request=update.request, refused_request=None)


def _again_by_request(update: UserUpdate, verb: str, now: datetime) -> Status:
    """The step in hand is called anew, with `restart` all steps: at once, and with all attempts."""
    again = _afresh(_handled(update))
    if verb == "restart":
        again = replace(again, steps=(), run=again.run + 1)
    return _at(replace(again, step=step_in_hand(again)), Phase.RUNNING, Reason.RUNNING, f"{verb} by request", now)


def _waiting(
    status: Status,
    reason: Reason,
    message: str,
    now: datetime,
    step: str | None = None,
    at: datetime | None = None,
) -> Status:
    """Waiting for this reason. The step in hand and the delay stay unless others are given."""
    if at is None and status.phase is Phase.WAITING and (status.reason, status.message) == (reason, message):
        return status
    kept = replace(status, step=step or step_in_hand(status), next_attempt_time=at or status.next_attempt_time)
    return _at(kept, Phase.WAITING, reason, message, now)


def _at(status: Status, phase: Phase, reason: Reason, message: str, now: datetime) -> Status:
    """With this condition. Its time changes only with its status, as Kubernetes' API conventions demand."""
    changed = status.transition_time is None or (phase in FINISHED) != (status.phase in FINISHED)
    time = now if changed else status.transition_time
    return replace(status, phase=phase, reason=reason, message=message[:1024], transition_time=time)


def cause_of(status: Status) -> str:
    """What the update waits for, without the time until which it waits; empty while it is called, or about to be."""
    if status.reason in (Reason.RUNNING, Reason.STEP_CONCURRENCY):
        return ""
    at = status.next_attempt_time
    return status.message.removesuffix(_again("", at)) if at else status.message


def _again(message: str, at: datetime) -> str:
    return f"{message}, again at {at:%H:%M:%S}"
