"""The UserUpdate: one event, its queue, its checkpoints; read from and written to JSON in one place."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from controller.api import names, requests, timestamps
from controller.api.requests import RefusedRequest


class Phase(StrEnum):
    """Where an update stands; None stands for queued, or in its first call."""

    RUNNING = "Running"
    WAITING = "Waiting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SKIPPED = "Skipped"
    CANCELLED = "Cancelled"


#: What `from_body` raises for an object that is not as this version knows them.
NOT_UNDERSTOOD = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
FINISHED = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.SKIPPED, Phase.CANCELLED})


def unfinished_selector(stream: str) -> str:
    """The field selector of a stream's unfinished updates."""
    return ",".join([f"spec.stream={stream}", *(f"status.phase!={phase}" for phase in sorted(FINISHED))])


class Reason(StrEnum):
    """Why the condition Succeeded stands as it does: a closed set."""

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
#: What an update may wait for that has never been called.
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
class Source:
    """The record behind an update; absent on hand-made ones."""

    topic: str
    topic_id: str
    partition: int
    offset: int
    timestamp: datetime
    traceparent: str | None = None
    #: Name of the user's update before this one, of the same source: this one is not called before that is finished
    #: or gone.
    after: str | None = None

    @property
    def name(self) -> str:
        return names.source_name(self.topic_id, self.partition)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Source:
        return cls(
            topic=sys.intern(body["topic"]),
            topic_id=sys.intern(body["topicId"]),
            partition=body["partition"],
            offset=body["offset"],
            timestamp=timestamps.from_text(body["timestamp"]),
            traceparent=body.get("traceparent"),
            after=body.get("after"),
        )


@dataclass(frozen=True, slots=True)
class UpdateSpec:
    stream: str
    user: str
    sequence: int
    profile: str
    permissions: str
    resources: str
    suspend: bool = False
    source: Source | None = None
    #: For how long a hand-made update stays once it is finished; None: until somebody deletes it.
    ttl_seconds_after_finished: int | None = None

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> UpdateSpec:
        source = body.get("source")
        return cls(
            stream=sys.intern(body["stream"]),  # as all that ten thousand updates have in common
            user=body["user"],
            sequence=body["sequence"],
            profile=body["profile"],
            permissions=body["permissions"],
            resources=body["resources"],
            suspend=body.get("suspend", False),
            source=Source.from_body(source) if source else None,
            ttl_seconds_after_finished=body.get("ttlSecondsAfterFinished"),
        )


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A finished step: a checkpoint. It is never called again within the same run."""

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
    """The durable state of an update: all that a restarted controller knows of it."""

    phase: Phase | None = None
    #: The step in hand.
    step: str | None = None
    #: Failures of the step in hand.
    attempts: int = 0
    #: How many of them blame the stream: they do not use its `maxAttempts` up.
    misconfigured_count: int = 0
    #: Busy answers to the step in hand.
    busy_count: int = 0
    next_attempt_time: datetime | None = None
    #: When the first call began that was answered; an update that has it has been called.
    start_time: datetime | None = None
    #: Raised only when someone asks for the steps to be done again.
    run: int = 0
    steps: tuple[StepRecord, ...] = ()
    reason: Reason | None = None
    message: str = ""
    #: When the condition's status last changed.
    transition_time: datetime | None = None
    #: The value of the request annotation that was acted upon last.
    handled_request: str | None = None
    #: The newest request that could not be done.
    refused_request: RefusedRequest | None = None
    #: What the update is held for: Rejected or Exhausted.
    held: Reason | None = None

    @property
    def finished(self) -> bool:
        return self.phase in FINISHED

    @property
    def called(self) -> bool:
        """A call of it has been answered, so that it stays the head until it is finished.

        Versions before `startTime` did not write it. What they stored counts as called unless it shows nothing but a
        wait that comes before the first call: one that may have been called stays the head. Two things they cannot
        tell: whether tries without the step's Secret were calls (taken as calls), and whether a first call was cut off
        before a suspension (taken as none, as when it is cut off by a crash).
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
        """Waiting for a time, not for a person."""
        return self.reason in DELAYED

    @property
    def results(self) -> dict[str, str]:
        """What the finished steps gave: `{"userId": …, "roleId": …}`."""
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
        """The whole status as a merge patch: what is unset is null, so that nothing of an earlier one stays."""
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
    """`status` of the condition Succeeded: Unknown until the end, then True or False."""
    if phase not in FINISHED:
        return "Unknown"
    return "True" if phase is Phase.SUCCEEDED else "False"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Of an object that this version does not understand, as a newer one may have written it."""

    #: What was not understood, for people.
    cause: str
    #: Whether its place in the queue is known: the spec was understood, the status was not.
    placed: bool


@dataclass(frozen=True, slots=True)
class UserUpdate:
    namespace: str
    name: str
    uid: str
    #: Versions of one resource can be compared as numbers (KEP-5504).
    resource_version: int
    creation_time: datetime
    spec: UpdateSpec
    status: Status
    #: Value of the request annotation.
    request: str | None = None
    #: Set on a placeholder for an object that was not understood: it keeps its place in the queue, and never runs.
    unreadable: Unreadable | None = None
    #: Somebody has deleted it, and a finalizer of somebody else keeps the object for now.
    deleted: bool = False

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> UserUpdate:
        """Raises one of NOT_UNDERSTOOD where the object is not what this version's CRD lets pass."""
        metadata = body["metadata"]
        return cls(
            namespace=sys.intern(metadata["namespace"]),
            name=metadata["name"],
            uid=metadata["uid"],
            resource_version=int(metadata["resourceVersion"]),
            creation_time=timestamps.from_text(metadata["creationTimestamp"]),
            spec=UpdateSpec.from_body(body["spec"]),
            status=Status.from_body(body.get("status") or {}),
            request=requests.read(metadata.get("annotations") or {}),
        )

    @classmethod
    def placeholder(cls, body: Mapping[str, Any], cause: Exception) -> UserUpdate:
        """In place of an object that `from_body` did not understand: its user, and what is known of its place.

        If it has a status it may have been called, and counts as called. Raises KeyError or TypeError where not even
        its user is known, which no version of the CRD lets pass.
        """
        metadata, spec, status = body["metadata"], body["spec"], body.get("status")
        understood = _understood(metadata, spec)
        created, known = understood or (
            datetime.min.replace(tzinfo=UTC),
            UpdateSpec(sys.intern(spec["stream"]), spec["user"], 0, "", "", ""),
        )
        phase = status.get("phase") if isinstance(status, dict) else None
        finished = next((each for each in FINISHED if each == phase), None)
        return cls(
            namespace=sys.intern(metadata["namespace"]),
            name=metadata["name"],
            uid=metadata["uid"],
            resource_version=int(metadata["resourceVersion"]),
            creation_time=created,
            spec=known,
            status=Status(phase=finished or (Phase.WAITING if status else None)),
            unreadable=Unreadable(f"{type(cause).__name__}: {cause}", placed=understood is not None),
        )

    @property
    def source_name(self) -> str:
        return self.spec.source.name if self.spec.source else names.MANUAL_SOURCE

    @property
    def timestamp(self) -> datetime:
        """The record's time; for hand-made updates that of their creation."""
        return self.spec.source.timestamp if self.spec.source else self.creation_time

    @property
    def pending_request(self) -> str | None:
        """A person's request that has been neither done nor refused."""
        refused = self.status.refused_request
        answered = (self.status.handled_request, refused.request if refused else None)
        return None if self.request in answered else self.request

    def comes_later_than(self, other: UserUpdate) -> bool:
        """In the same source. Such a one is no predecessor: a bridge once linked so, and each waited for the other."""
        return self.source_name == other.source_name and self.spec.sequence >= other.spec.sequence

    def idempotency_key(self, step: str) -> str:
        uid = None if self.spec.source else self.uid
        return names.idempotency_key(self.namespace, self.name, step, self.status.run, uid)

    def with_status(self, status: Status, resource_version: int) -> UserUpdate:
        return replace(self, status=status, resource_version=resource_version)


def _understood(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> tuple[datetime, UpdateSpec] | None:
    """What tells an update's place in the queue; None where that is what was not understood."""
    try:
        return timestamps.from_text(metadata["creationTimestamp"]), UpdateSpec.from_body(spec)
    except NOT_UNDERSTOOD:
        return None


def _steps(records: Sequence[Mapping[str, Any]], phase: Phase | None) -> tuple[StepRecord, ...]:
    """Raises ValueError for other steps than ours, and where all are done and the phase does not say so."""
    steps = tuple(StepRecord.from_body(record) for record in records)
    if tuple(step.name for step in steps) != names.STEPS[: len(steps)]:
        raise ValueError(f"its steps are not {', '.join(names.STEPS)}, in this order")
    if len(steps) == len(names.STEPS) and phase not in FINISHED:
        raise ValueError("all steps are done, and its phase does not say so")
    return steps


def _time(text: str | None) -> datetime | None:
    return timestamps.from_text(text) if text else None
