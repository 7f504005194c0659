"""Fetches records again by their offsets, outside the consumer group.

The records of a UserBacklog have been read before and wait in Kafka since. The group has moved on, so a consumer
without a group fetches them. It lives on a thread of its own; the event loop awaits each pass.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import confluent_kafka as ck

from controller.core.records import Record
from controller.kafka.config import (
    BRIDGE_CONFIG,
    FETCH_DEFAULTS,
    MAX_QUEUED_BY_FETCHER,
    KafkaError,
    create_client,
    queue_kbytes,
)
from controller.kafka.messages import read_message, record_cost
from controller.kafka.topics import Topic

#: Each pass begins at another offset, and waits for the fetch request of the pass before it to end.
FETCHER_CONFIG = {"fetch.wait.max.ms": 100}
#: Size of a gap of offsets at which the consumer seeks past it instead of reading it.
GAP = 5000
#: Bytes of records that one pass returns at most, not counting the last record.
MAX_BYTES = 3 << 20
#: Seconds without a message after which a pass ends, and seconds after which it ends in any case.
SILENCE_SECONDS = 3.0
PASS_SECONDS = 10.0
#: Messages that are taken from librdkafka at a time.
BATCH = 500
#: Seconds without use after which a consumer is closed, as it has threads and connections.
IDLE_SECONDS = 30.0


@dataclass(slots=True)
class FetchResult:
    """The result of a pass for the offsets that were wanted. An offset in neither list has to be fetched again."""

    records: list[Record] = field(default_factory=list)
    #: Offsets that Kafka does not have any more.
    missing: list[int] = field(default_factory=list)
    #: The partition ends before the next offset that is wanted.
    ended: bool = False


class Fetcher:
    """One consumer without a group, for all partitions of a topic in turn."""

    def __init__(
        self, config: Mapping[str, Any], topic: Topic, group: str, share: Callable[[], float] = lambda: 1.0
    ) -> None:
        """`config` is that of `client_config`. librdkafka asks for a `group`, though the fetcher does not join it.

        `share` is the part of librdkafka's queue that may be used, from 0 to 1: it falls as streams are added.
        """
        own = {"group.id": group}
        unused = ("partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms")
        base = {key: value for key, value in BRIDGE_CONFIG.items() if key not in unused}
        self._config = FETCH_DEFAULTS | FETCHER_CONFIG | dict(config) | base | own
        self._topic = topic
        self._share = share
        #: Created for a pass, with the share that there was then; closed when it has been idle.
        self._consumer: Any = None
        self._created_with = 1.0
        self._used = 0.0
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka fetcher")

    async def fetch(self, partition: int, offsets: Sequence[int], max_bytes: int = MAX_BYTES) -> FetchResult:
        """One pass over rising offsets of a partition; it ends when it has found `max_bytes`. Raises KafkaError."""
        most = min(max_bytes, MAX_BYTES)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._fetch, partition, offsets, most)

    def close_if_idle(self) -> None:
        """Close the connections, until the next pass, if there was none for IDLE_SECONDS."""
        if self._consumer is not None and time.monotonic() - self._used > IDLE_SECONDS:
            self._used = time.monotonic()
            self._thread.submit(self._close)

    def close(self) -> None:
        """End the thread. A pass that is under way ends early."""
        self._closing = True
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    # The methods below run on the thread.

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _open(self) -> None:
        share = self._share()
        if share < self._created_with / 2:
            self._close()  # streams were added: a queue of this size would use their memory
        if self._consumer is None:
            size = {"queued.max.messages.kbytes": queue_kbytes(MAX_QUEUED_BY_FETCHER, share)}
            self._consumer, self._created_with = create_client(ck.Consumer, self._config | size), share

    def _fetch(self, partition: int, offsets: Sequence[int], most: int) -> FetchResult:
        self._open()
        self._used = time.monotonic()
        try:
            self._consumer.assign([ck.TopicPartition(self._topic.name, partition, offsets[0])])
            result = self._collect(partition, deque(offsets), most)
            self._consumer.unassign()
        except ck.KafkaException as error:
            raise KafkaError("BrokerUnreachable", f"records not read again: {error.args[0].str()}") from error
        return result

    def _collect(self, partition: int, wanted: deque[int], most: int) -> FetchResult:
        result = FetchResult()
        size = 0
        now = heard = time.monotonic()
        end = now + PASS_SECONDS
        while wanted and size < most and now < end and now - heard < SILENCE_SECONDS and not self._closing:
            messages = self._consumer.consume(BATCH, 0.05)
            for message in messages:
                if size >= most:
                    return result  # the next pass fetches the other messages again
                size += self._add(message, partition, wanted, result)
            now = time.monotonic()
            if messages:
                heard = now
                self._seek_past_gap(partition, wanted, messages[-1])
        return result

    def _add(self, message: Any, partition: int, wanted: deque[int], result: FetchResult) -> int:
        """The bytes that were added to the result."""
        error = message.error()
        if error is not None:
            code = error.code()
            if code == ck.KafkaError._PARTITION_EOF:
                self._add_missing(wanted, message.offset(), result)
                result.ended = bool(wanted)
            elif code in (ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE):
                self._begin_again(partition, wanted, result)
            return 0
        self._add_missing(wanted, message.offset(), result)
        if not wanted or wanted[0] != message.offset():
            return 0
        wanted.popleft()
        record = read_message(message, self._topic)
        result.ended = False
        result.records.append(record)
        return record_cost(record)

    def _add_missing(self, wanted: deque[int], offset: int, result: FetchResult) -> None:
        """No wanted record below this offset will come any more."""
        while wanted and wanted[0] < offset:
            result.missing.append(wanted.popleft())

    def _begin_again(self, partition: int, wanted: deque[int], result: FetchResult) -> None:
        """The log begins at a later offset than it did, or ends earlier."""
        where = ck.TopicPartition(self._topic.name, partition)
        low, high = self._consumer.get_watermark_offsets(where, timeout=SILENCE_SECONDS)
        self._add_missing(wanted, low, result)
        result.ended = bool(wanted) and wanted[0] > high
        if wanted and not result.ended:
            self._consumer.assign([ck.TopicPartition(self._topic.name, partition, wanted[0])])

    def _seek_past_gap(self, partition: int, wanted: deque[int], last: Any) -> None:
        if wanted and last.error() is None and wanted[0] - last.offset() > GAP:
            self._consumer.seek(ck.TopicPartition(self._topic.name, partition, wanted[0]))
