"""A message of librdkafka as a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import confluent_kafka as ck

from controller.core.records import Record
from controller.kafka.topics import Topic

#: Bytes of memory that a record takes beside its key, value and headers.
RECORD_OVERHEAD = 600


def read_message(message: Any, topic: Topic) -> Record:
    """The record of a `confluent_kafka.Message` without an error.

    The type stubs of confluent_kafka know neither that such a message has an offset nor that headers hold bytes.
    """
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
    """The headers; none where the client refuses to read them, as it does if the name of one is not UTF-8."""
    try:
        return message.headers() or ()
    except UnicodeDecodeError:
        return ()


def record_cost(record: Record) -> int:
    """Bytes of memory that a record takes, about."""
    return RECORD_OVERHEAD + record.size
