"""What a member of a consumer group tells the event loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import confluent_kafka as ck

from controller.core.records import Record
from controller.kafka.config import KafkaError
from controller.kafka.topics import Topic

#: What a record costs in memory beside its bytes.
RECORD_OVERHEAD = 600


@dataclass(frozen=True, slots=True)
class Assigned:
    """Partitions that are now this member's. Nothing is read from them before `begin`."""

    partitions: tuple[int, ...]
    #: Of this assignment among all of the member: a partition that goes and comes back is assigned anew.
    serial: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """Partitions that are no longer this member's once `released` has its result, the last offsets to commit."""

    partitions: tuple[int, ...]
    #: The member is no longer in the group, and joins again.
    lost: bool = False
    released: Future[Mapping[int, int]] = field(default_factory=Future, compare=False)


@dataclass(frozen=True, slots=True)
class Reached:
    """The end of a partition: the next record will have this offset or a higher one."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """Records in offset order within each partition, and ends of partitions among them."""

    items: list[Record | Reached]
    size: int


@dataclass(frozen=True, slots=True)
class Committed:
    """The coordinator took these offsets from this member, in a request sent at `sent` of the monotonic clock."""

    offsets: Mapping[int, int]
    sent: float


@dataclass(frozen=True, slots=True)
class CommitRefused:
    """A commit was not accepted: the coordinator refused it, or there is no coordinator."""

    message: str


@dataclass(frozen=True, slots=True)
class OutOfRange:
    """The partition has no such offset, or no longer."""

    partition: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The brokers refuse this member something; it goes on asking."""

    error: KafkaError
    #: Which it cannot fetch; None: it is not about a single one.
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Fatal: this member is of no use any more."""

    reason: str
    message: str


Event: TypeAlias = Assigned | Revoked | Fetched | Committed | CommitRefused | OutOfRange | Refused | Failed


def read_message(message: Any, topic: Topic) -> Record:
    """A `confluent_kafka.Message` without error; its stubs know neither that it has an offset nor bytes in headers."""
    kind, timestamp = message.timestamp()
    return Record(
        topic=topic.name,
        topic_id=topic.id,
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=timestamp if kind != ck.TIMESTAMP_NOT_AVAILABLE else -1,
        key=message.key(),
        value=message.value(),
        headers=_headers(message),
    )


def _headers(message: Any) -> Sequence[tuple[str, bytes | None]]:
    """Headers of outside bytes: a name that is not UTF-8 makes the client refuse to read them."""
    try:
        return message.headers() or ()
    except UnicodeDecodeError:
        return ()


def record_cost(record: Record) -> int:
    """Bytes of memory that a record in hand takes, about."""
    return RECORD_OVERHEAD + record.size
