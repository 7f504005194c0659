"""The notifications that a group member sends to the event loop.

All calls to librdkafka's consumer are made on the member's thread. The thread never touches the state of the bridge;
it hands these values to the event loop, one by one, in the order in which things happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

from controller.core.records import Record
from controller.kafka.config import KafkaError


@dataclass(frozen=True, slots=True)
class Assigned:
    """The coordinator has assigned these partitions to this member, in addition to those that it has.

    Nothing is fetched from them before `GroupMember.fetch_from`. The coordinator may also assign no partition.
    """

    partitions: tuple[int, ...]
    #: Counts the assignments of this member: a partition that is revoked and assigned again has another serial.
    serial: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """The coordinator takes these partitions away.

    The thread waits for the result of `released`, RELEASE_SECONDS at most: the last offsets to commit, by partition.
    Only then may another member have the partitions.
    """

    partitions: tuple[int, ...]
    #: The member is no longer in the group and joins it again. Another member may have the partitions already.
    lost: bool = False
    released: Future[Mapping[int, int]] = field(default_factory=Future, compare=False)


@dataclass(frozen=True, slots=True)
class PartitionEnd:
    """The member has reached the end of a partition: the next record will have this offset or a higher one."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """Records, and ends of partitions among them. Those of one partition are in the order of their offsets."""

    items: list[Record | PartitionEnd]
    #: Bytes of memory that the records take, about. The event loop returns them with `GroupMember.consumed`.
    size: int


@dataclass(frozen=True, slots=True)
class Committed:
    """The coordinator has accepted these offsets, by partition."""

    offsets: Mapping[int, int]
    #: When the request was sent, in seconds of the monotonic clock.
    sent: float


@dataclass(frozen=True, slots=True)
class CommitRefused:
    """The coordinator has refused a commit, or there is no coordinator."""

    message: str


@dataclass(frozen=True, slots=True)
class OffsetOutOfRange:
    """The partition does not have the offset to be fetched: it was removed, or the log ends before it."""

    partition: int


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """The brokers refuse a request of this member. librdkafka repeats it by itself."""

    error: KafkaError
    #: The partition that cannot be fetched; None where the request is not about a single one.
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class MemberFailed:
    """A fatal error: this member will receive nothing any more."""

    #: Reason and message for the stream's condition.
    reason: str
    message: str


Notification: TypeAlias = (
    Assigned | Revoked | Fetched | Committed | CommitRefused | OffsetOutOfRange | RequestRefused | MemberFailed
)
