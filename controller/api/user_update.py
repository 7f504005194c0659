"""The UserUpdate: one event and where it stands, read from and written to JSON in one place."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from controller.api import NOT_UNDERSTOOD, names, requests, timestamps
from controller.api.user_update_status import FINISHED, Phase, Status


def unfinished_selector(stream: str) -> str:
    """The field selector of a stream's unfinished updates."""
    return ",".join([f"spec.stream={stream}", *(f"status.phase!={phase}" for phase in sorted(FINISHED))])


@dataclass(frozen=True, slots=True)
class Source:
    """The Kafka record that an update was made of. Updates made by hand have none."""

    topic: str
    topic_id: str
    partition: int
    offset: int
    timestamp: datetime
    traceparent: str | None = None
    #: Name of the user's update before this one, of the same source. It has to be finished or gone before this one is
    #: called.
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

    def to_body(self) -> dict[str, Any]:
        optional = {"traceparent": self.traceparent, "after": self.after}
        return {
            "topic": self.topic,
            "topicId": self.topic_id,
            "partition": self.partition,
            "offset": self.offset,
            "timestamp": timestamps.to_text(self.timestamp),
            **{name: value for name, value in optional.items() if value is not None},
        }


@dataclass(frozen=True, slots=True)
class UpdateSpec:
    """The update that is to be applied for a user; immutable except for `suspend`."""

    stream: str
    user: str
    sequence: int
    profile: str
    permissions: str
    resources: str
    suspend: bool = False
    source: Source | None = None
    #: Seconds for which a finished update made by hand stays; None: until somebody deletes it.
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
class Unreadable:
    """Why this version does not understand an object. A newer version may have written it."""

    #: For people.
    cause: str
    #: Whether its place in the queue is known: the spec was understood, and only the status was not.
    placed: bool


@dataclass(frozen=True, slots=True)
class UserUpdate:
    """One update, as its object in the API server describes it."""

    namespace: str
    name: str
    uid: str
    #: Two versions of one object can be compared as numbers (KEP-5504).
    resource_version: int
    creation_time: datetime
    spec: UpdateSpec
    status: Status
    #: The value of the request annotation.
    request: str | None = None
    #: Set on the placeholder of an object that was not understood. It keeps its place in the queue and never runs.
    unreadable: Unreadable | None = None
    #: It was deleted, and a finalizer that is not ours still keeps the object.
    deleted: bool = False

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> UserUpdate:
        """Raises one of NOT_UNDERSTOOD for an object that this version's CRD would not accept."""
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
        """Stands for an object that `from_body` did not understand: its user, and its place as far as it is known.

        An object with a status may have been called, so it counts as called. Raises KeyError or TypeError where
        not even its user is known; no version of the CRD accepts such an object.
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
        """The record's time; for an update made by hand, the time of its creation."""
        return self.spec.source.timestamp if self.spec.source else self.creation_time

    @property
    def pending_request(self) -> str | None:
        """A person's request that has been neither done nor refused; None: there is none."""
        refused = self.status.refused_request
        answered = (self.status.handled_request, refused.request if refused else None)
        return None if self.request in answered else self.request

    def comes_later_than(self, other: UserUpdate) -> bool:
        """Whether both have one source and this one comes later in it.

        A later update is no predecessor. A bridge once linked two updates to each other, and each waited for the other.
        """
        return self.source_name == other.source_name and self.spec.sequence >= other.spec.sequence

    def idempotency_key(self, step: str) -> str:
        uid = None if self.spec.source else self.uid
        return names.idempotency_key(self.namespace, self.name, step, self.status.run, uid)

    def with_status(self, status: Status, resource_version: int) -> UserUpdate:
        return replace(self, status=status, resource_version=resource_version)


def manifest(namespace: str, spec: UpdateSpec) -> dict[str, Any]:
    """The object to create for a record: `spec.source` says which one."""
    source = spec.source
    assert source is not None
    return {
        "apiVersion": names.API_VERSION,
        "kind": "UserUpdate",
        "metadata": {
            "name": names.record_name(spec.stream, source.topic_id, source.partition, source.offset),
            "namespace": namespace,
            "labels": {
                names.STREAM_LABEL: spec.stream,
                names.USER_LABEL: names.user_label(spec.user),
                names.BUCKET_LABEL: str(names.bucket(spec.user)),
            },
        },
        "spec": {
            "stream": spec.stream,
            "user": spec.user,
            "sequence": spec.sequence,
            "profile": spec.profile,
            "permissions": spec.permissions,
            "resources": spec.resources,
            "source": source.to_body(),
        },
    }


def _understood(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> tuple[datetime, UpdateSpec] | None:
    """The value that an update's place in the queue depends on; None where it was not understood."""
    try:
        return timestamps.from_text(metadata["creationTimestamp"]), UpdateSpec.from_body(spec)
    except NOT_UNDERSTOOD:
        return None
