"""Records that were read before and waited in Kafka since: read again by their offsets, outside the group."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import confluent_kafka as ck

from controller.events import Record
from controller.kafka.config import BRIDGE_CONFIG, FETCH_DEFAULTS, MAX_QUEUED_AGAIN, KafkaError, made, queue_size
from controller.kafka.told import read_message, record_cost
from controller.kafka.topics import Topic

#: A gap of so many offsets is jumped over instead of read.
GAP = 5000
#: Bytes of records that one pass returns, about.
MAX_BYTES = 3 << 20
#: A pass ends when nothing has come for so long, and after so long altogether.
SILENCE_SECONDS = 3.0
PASS_SECONDS = 10.0
BATCH = 500


@dataclass(slots=True)
class Reread:
    """What a pass found of the offsets it was asked for; those in neither list are still to be read."""

    records: list[Record] = field(default_factory=list)
    #: Kafka has them no more.
    missing: list[int] = field(default_factory=list)


class Rereader:
    """One consumer without a group, on a thread of its own, for all partitions of a topic in turn."""

    def __init__(self, config: Mapping[str, Any], topic: Topic, group: str, share: float = 1.0) -> None:
        own = {"group.id": group, "queued.max.messages.kbytes": queue_size(MAX_QUEUED_AGAIN, share)}
        unused = ("partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms")
        base = {key: value for key, value in BRIDGE_CONFIG.items() if key not in unused}
        self._config = FETCH_DEFAULTS | dict(config) | base | own
        self._topic = topic
        self._consumer: Any = None
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka reread")

    async def read(self, partition: int, wanted: Sequence[int]) -> Reread:
        """A pass over rising offsets of one partition. Raises KafkaError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, partition, wanted)

    def close(self) -> None:
        """A pass that is under way ends early."""
        self._closing = True
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()

    def _read(self, partition: int, wanted: Sequence[int]) -> Reread:
        if self._consumer is None:
            self._consumer = made(ck.Consumer, self._config)
        try:
            self._consumer.assign([ck.TopicPartition(self._topic.name, partition, wanted[0])])
            found = self._collect(partition, deque(wanted))
            self._consumer.unassign()
        except ck.KafkaException as error:
            raise KafkaError("BrokerUnreachable", f"records not read again: {error.args[0].str()}") from error
        return found

    def _collect(self, partition: int, wanted: deque[int]) -> Reread:
        found = Reread()
        size = 0
        now = heard = time.monotonic()
        end = now + PASS_SECONDS
        while wanted and size < MAX_BYTES and now < end and now - heard < SILENCE_SECONDS and not self._closing:
            messages = self._consumer.consume(BATCH, 0.05)
            for message in messages:
                size += self._take(message, partition, wanted, found)
            now = time.monotonic()
            if messages:
                heard = now
                self._jump(partition, wanted, messages[-1])
        return found

    def _take(self, message: Any, partition: int, wanted: deque[int], found: Reread) -> int:
        """Bytes that were added."""
        error = message.error()
        if error is not None:
            code = error.code()
            if code == ck.KafkaError._PARTITION_EOF:
                self._miss(wanted, message.offset(), found)
            elif code in (ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE):
                self._begin_again(partition, wanted, found)
            return 0
        self._miss(wanted, message.offset(), found)
        if not wanted or wanted[0] != message.offset():
            return 0
        wanted.popleft()
        record = read_message(message, self._topic)
        found.records.append(record)
        return record_cost(record)

    def _miss(self, wanted: deque[int], offset: int, found: Reread) -> None:
        """What was to come before this offset does not come any more."""
        while wanted and wanted[0] < offset:
            found.missing.append(wanted.popleft())

    def _begin_again(self, partition: int, wanted: deque[int], found: Reread) -> None:
        """The log begins later than it did."""
        where = ck.TopicPartition(self._topic.name, partition)
        low, _ = self._consumer.get_watermark_offsets(where, timeout=SILENCE_SECONDS)
        self._miss(wanted, low, found)
        if wanted:
            self._consumer.assign([ck.TopicPartition(self._topic.name, partition, wanted[0])])

    def _jump(self, partition: int, wanted: deque[int], last: Any) -> None:
        if wanted and last.error() is None and wanted[0] - last.offset() > GAP:
            self._consumer.seek(ck.TopicPartition(self._topic.name, partition, wanted[0]))
