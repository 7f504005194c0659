"""Updates and streams with sensible values, so that a test names only what it is about.

`make_update(user="ana", sequence=3)` is the update of a record at offset 3; `make_update(sequence=3, manual=True)` one
that a person applied. Both come with a name, a time and a resourceVersion that follow from what is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.api import names
from controller.api.update_stream import (
    KafkaSpec,
    Limits,
    Policy,
    Retention,
    RetrySpec,
    StepSpec,
    Suspend,
    UpdateStream,
)
from controller.api.user_update import Source, UpdateSpec, UserUpdate
from controller.api.user_update_status import Phase, Reason, Status, StepRecord
from controller.core.user_queue import UserQueue
from tests.support.records import TOPIC_ID

#: When every test begins.
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """So many seconds after NOW."""
    return NOW + timedelta(seconds=seconds)


def make_update(
    *,
    user: str = "ana",
    sequence: int = 3,
    name: str | None = None,
    namespace: str = "default",
    stream: str = "user-updates",
    manual: bool = False,
    topic_id: str = TOPIC_ID,
    partition: int = 0,
    time: datetime | None = None,
    after: str | None = None,
    suspend: bool = False,
    status: Status | None = None,
    request: str | None = None,
    uid: str | None = None,
    resource_version: int = 100,
) -> UserUpdate:
    """`time`: the record's timestamp, or the creation of a hand-made update; by default a second for each sequence."""
    time = time or at(min(sequence, 10**6))
    source = None if manual else Source("events", topic_id, partition, sequence, time, after=after)
    made = f"{stream}-by-hand-{sequence}" if manual else names.record_name(stream, topic_id, partition, sequence)
    return UserUpdate(
        namespace=namespace,
        name=name or made,
        uid=uid or f"uid-of-{name or made}",
        resource_version=resource_version,
        creation_time=time if manual else at(3600),
        spec=UpdateSpec(stream, user, sequence, "dev", "all", "all", suspend=suspend, source=source),
        status=status or Status(),
        request=request,
    )


def make_queue(*updates: UserUpdate) -> UserQueue:
    queue = UserQueue()
    for update in updates:
        queue.push(update)
    return queue


def make_stream(
    *,
    name: str = "user-updates",
    namespace: str = "default",
    on_rejected: Policy = "Continue",
    on_exhausted: Policy = "Hold",
    busy_delay: float = 5.0,
    initial: float = 1.0,
    maximum: float = 60.0,
    factor: float = 2.0,
    max_attempts: int = 0,
    suspend_processing: bool = False,
    suspend_users: Iterable[str] = (),
    shards: int = 1,
) -> UpdateStream:
    """The three steps have the same retry policy and busy delay, both in seconds."""
    retry = RetrySpec(initial, maximum, factor, max_attempts)
    return UpdateStream(
        namespace=namespace,
        name=name,
        uid=f"uid-of-{name}",
        adopted_uid=f"uid-of-{name}",
        generation=1,
        kafka=KafkaSpec("127.0.0.1:9092", "events", f"{namespace}.{name}", {}, None),
        steps={
            step: StepSpec(f"http://127.0.0.1:8080/{step}", busy_delay_seconds=busy_delay, retry=retry)
            for step in ("profile", "permissions", "resources")
        },
        shards=shards,
        checkpoints="EveryStep",
        on_rejected=on_rejected,
        on_exhausted=on_exhausted,
        limits=Limits(),
        retention=Retention(),
        suspend=Suspend(processing=suspend_processing, users=frozenset(suspend_users)),
    )


def make_step_record(name: str = "profile", *, attempts: int = 1, **result: str) -> StepRecord:
    """`make_step_record(userId="u-1")`: a step that took a second, from NOW on."""
    return StepRecord(name, result, attempts, NOW, at(1))


def make_body(update: UserUpdate) -> dict[str, Any]:
    """The update as the API server gives it."""
    spec, source = update.spec, update.spec.source
    fields = ("stream", "user", "sequence", "profile", "permissions", "resources", "suspend")
    body: dict[str, Any] = {
        "metadata": {
            "namespace": update.namespace,
            "name": update.name,
            "uid": update.uid,
            "resourceVersion": str(update.resource_version),
            "creationTimestamp": f"{update.creation_time:%Y-%m-%dT%H:%M:%SZ}",
        },
        "spec": {field: getattr(spec, field) for field in fields},
    }
    if spec.ttl_seconds_after_finished is not None:
        body["spec"]["ttlSecondsAfterFinished"] = spec.ttl_seconds_after_finished
    if source:
        body["spec"]["source"] = {
            "topic": source.topic,
            "topicId": source.topic_id,
            "partition": source.partition,
            "offset": source.offset,
            "timestamp": f"{source.timestamp:%Y-%m-%dT%H:%M:%S.%fZ}",
        }
        optional = {"traceparent": source.traceparent, "after": source.after}
        body["spec"]["source"] |= {key: value for key, value in optional.items() if value is not None}
    if update.request is not None:
        body["metadata"]["annotations"] = {names.REQUEST_ANNOTATION: update.request}
    if update.status != Status():
        body["status"] = {key: value for key, value in update.status.for_status().items() if value is not None}
    return body


def held_status(reason: Reason, *, message: str = "400 from profile", attempts: int = 1) -> Status:
    """A head that waits for a person, as record() leaves it."""
    return Status(
        phase=Phase.WAITING,
        step="profile",
        attempts=attempts,
        reason=Reason.HELD,
        message=message,
        transition_time=NOW,
        held=reason,
    )


PROFILE_DONE = make_step_record("profile", userId="u-1")
PERMISSIONS_DONE = make_step_record("permissions", roleId="r-1")
RESOURCES_DONE = make_step_record("resources")

#: Statuses as record() leaves them.
BUSY_UNTIL_5 = Status(
    phase=Phase.WAITING,
    step="profile",
    busy_count=1,
    next_attempt_time=at(5),
    reason=Reason.DOWNSTREAM_BUSY,
    message="503 from profile, again at 12:00:05",
    transition_time=NOW,
)
BACKING_OFF_UNTIL_5 = replace(BUSY_UNTIL_5, busy_count=0, attempts=1, reason=Reason.BACKING_OFF)
RUNNING = Status(
    phase=Phase.RUNNING, step="permissions", steps=(PROFILE_DONE,), reason=Reason.RUNNING, transition_time=NOW
)
FINAL = replace(RUNNING, phase=Phase.SUCCEEDED, step=None, reason=Reason.SUCCEEDED)
