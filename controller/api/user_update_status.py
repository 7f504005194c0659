"""`status` of a UserUpdate: its phase, its condition and its checkpoints, read from and written to JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from controller.api import names, timestamps
from controller.api.requests import RefusedRequest


class Phase(StrEnum):
    """How far an update has come. An update without a phase is queued, or in its first call."""

    RUNNING = "Running"
    WAITING = "Waiting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SKIPPED = "Skipped"
    CANCELLED = "Cancelled"


FINISHED = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.SKIPPED, Phase.CANCELLED})


class Reason(StrEnum):
    """The reason of the condition Succeeded: a closed set."""

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    DOWNSTREAM_BUSY = "DownstreamBusy"
    BACKING_OFF = "BackingOff"
    STEP_MISCONFIGURED = "StepMisconfigured"
    STEP_CONCURRENCY = "StepConcurrency"
    HELD = "Held"
    SUSPENDED = "Suspended"
    STREAM_SUSPENDED = "StreamSuspended"
    STREAM_MISSING = "StreamMissing"
    REJECTED = "Rejected"
    EXHAUSTED = "Exhausted"
    SKIPPED_BY_REQUEST = "SkippedByRequest"
    CANCELLED_BY_REQUEST = "CancelledByRequest"


DELAYED = frozenset({Reason.DOWNSTREAM_BUSY, Reason.BACKING_OFF, Reason.STEP_MISCONFIGURED})
#: Reasons for which an update may wait before its first call.
BEFORE_THE_FIRST_CALL = frozenset(
    {
        Reason.SUSPENDED,
        Reason.STREAM_SUSPENDED,
        Reason.STREAM_MISSING,
        Reason.STEP_CONCURRENCY,
        Reason.STEP_MISCONFIGURED,
    }
)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The checkpoint of a finished step. The step is never called again within the same run."""

    name: str
    result: Mapping[str, str]
    #: Calls made, the busy ones not counted.
    attempts: int
    start_time: datetime
    completion_time: datetime

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> StepRecord:
        return cls(
            name=body["name"],
            result=body.get("result", {}),
            attempts=body["attempts"],
            start_time=timestamps.from_text(body["startTime"]),
            completion_time=timestamps.from_text(body["completionTime"]),
        )

    def for_status(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "result": dict(self.result),
            "attempts": self.attempts,
            "startTime": timestamps.to_text(self.start_time),
            "completionTime": timestamps.to_text(self.completion_time),
        }


@dataclass(frozen=True, slots=True)
class Status:
    """The durable state of an update. A controller that starts knows nothing else about it."""

    phase: Phase | None = None
    #: The step in hand.
    step: str | None = None
    #: Failures of the step in hand.
    attempts: int = 0
    #: How many of them are the stream's fault. They do not count towards `maxAttempts`.
    misconfigured_count: int = 0
    #: Busy answers to the step in hand.
    busy_count: int = 0
    next_attempt_time: datetime | None = None
    #: When the first call that was answered began. An update with a start time has been called.
    start_time: datetime | None = None
    #: Goes up only when a person asks for all steps to be done again.
    run: int = 0
    steps: tuple[StepRecord, ...] = ()
    reason: Reason | None = None
    message: str = ""
    #: When the condition's status last changed.
    transition_time: datetime | None = None
    #: The request that was done last.
    handled_request: str | None = None
    #: The newest request that could not be done.
    refused_request: RefusedRequest | None = None
    #: Why the update is held: Rejected or Exhausted; None: it is not held.
    held: Reason | None = None

    @property
    def finished(self) -> bool:
        return self.phase in FINISHED

    @property
    def called(self) -> bool:
        """Whether a call of it has been answered. Such an update stays the head of its queue until it is finished.

        Versions before `startTime` did not write it. A status of theirs counts as called unless it shows nothing but a
        wait before the first call, because an update that may have been called has to stay the head. Two cases cannot
        be told apart in such a status. Tries without the step's Secret count as calls. A first call that was cut off
        before a suspension counts as none, like one that a crash cut off.
        """
        if self.start_time is not None:
            return True
        if self.phase is None:
            return False
        traces = (self.steps, self.attempts, self.busy_count, self.run, self.next_attempt_time, self.handled_request)
        before = self.phase is Phase.WAITING and self.reason in BEFORE_THE_FIRST_CALL and self.held is None
        return any(traces) or not before

    @property
    def delayed(self) -> bool:
        """Whether it waits for a time, and not for a person."""
        return self.reason in DELAYED

    @property
    def results(self) -> dict[str, str]:
        """The results of the finished steps: `{"userId": …, "roleId": …}`."""
        return {key: value for record in self.steps for key, value in record.result.items()}

    @property
    def completion_time(self) -> datetime | None:
        """When the update was finished; None while it is not."""
        return self.transition_time if self.finished else None

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Status:
        conditions: list[dict[str, Any]] = body.get("conditions") or [{}]
        if (condition := conditions[0]).get("type", "Succeeded") != "Succeeded":  # a newer version's comes first
            condition = next((each for each in conditions if each["type"] == "Succeeded"), {})
        return cls(
            phase=(phase := Phase(body["phase"]) if body.get("phase") else None),
            step=body.get("step"),
            attempts=body.get("attempts", 0),
            misconfigured_count=body.get("misconfiguredCount", 0),
            busy_count=body.get("busyCount", 0),
            next_attempt_time=_time(body.get("nextAttemptTime")),
            start_time=_time(body.get("startTime")),
            run=body.get("run", 0),
            steps=_steps(body.get("steps", ()), phase),
            reason=Reason(condition["reason"]) if condition else None,
            message=condition.get("message", ""),
            transition_time=_time(condition.get("lastTransitionTime")),
            handled_request=body.get("handledRequest"),
            refused_request=RefusedRequest.from_body(body["refusedRequest"]) if body.get("refusedRequest") else None,
            held=Reason(body["held"]) if body.get("held") else None,
        )

    def for_status(self) -> dict[str, Any]:
        """The whole status as a merge patch. Fields without a value are null, so that no earlier value stays."""
        return {
            "phase": self.phase,
            "step": self.step,
            "attempts": self.attempts,
            "misconfiguredCount": self.misconfigured_count or None,
            "busyCount": self.busy_count,
            "nextAttemptTime": timestamps.to_short_text(self.next_attempt_time) if self.next_attempt_time else None,
            "startTime": timestamps.to_text(self.start_time) if self.start_time else None,
            "run": self.run,
            "steps": [record.for_status() for record in self.steps],
            "conditions": [self._condition()] if self.reason else None,
            "handledRequest": self.handled_request,
            "refusedRequest": self.refused_request.for_status() if self.refused_request else None,
            "held": self.held,
        }

    def _condition(self) -> dict[str, Any]:
        assert self.transition_time is not None
        return {
            "type": "Succeeded",
            "status": condition_status(self.phase),
            "reason": self.reason,
            "message": self.message,
            "lastTransitionTime": timestamps.to_text(self.transition_time),
        }


def condition_status(phase: Phase | None) -> str:
    """The `status` of the condition Succeeded: Unknown until the update is finished, then True or False."""
    if phase not in FINISHED:
        return "Unknown"
    return "True" if phase is Phase.SUCCEEDED else "False"


def _steps(records: Sequence[Mapping[str, Any]], phase: Phase | None) -> tuple[StepRecord, ...]:
    """Raises ValueError for other steps than ours, and where all steps are done and the phase does not say so."""
    steps = tuple(StepRecord.from_body(record) for record in records)
    if tuple(step.name for step in steps) != names.STEPS[: len(steps)]:
        raise ValueError(f"its steps are not {', '.join(names.STEPS)}, in this order")
    if len(steps) == len(names.STEPS) and phase not in FINISHED:
        raise ValueError("all steps are done, and its phase does not say so")
    return steps


def _time(text: str | None) -> datetime | None:
    return timestamps.from_text(text) if text else None
