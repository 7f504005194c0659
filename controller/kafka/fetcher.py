"""Records that were read before and waited in Kafka since: read again by their offsets, outside the group."""

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
from controller.kafka.config import BRIDGE_CONFIG, FETCH_DEFAULTS, MAX_QUEUED_AGAIN, KafkaError, made, queue_size
from controller.kafka.notifications import read_message, record_cost
from controller.kafka.topics import Topic

#: Each pass begins elsewhere, and waits for the fetch of the one before it to end.
AGAIN = {"fetch.wait.max.ms": 100}
#: A gap of so many offsets is jumped over instead of read.
GAP = 5000
#: Bytes of records that one pass returns at most, but for the last record.
MAX_BYTES = 3 << 20
#: A pass ends when nothing has come for so long, and after so long altogether.
SILENCE_SECONDS = 3.0
PASS_SECONDS = 10.0
BATCH = 500
#: A consumer that has read nothing for so long is closed: it has threads and connections.
REST_SECONDS = 30.0


@dataclass(slots=True)
class Reread:
    """What a pass found of the offsets it was asked for; those in neither list are still to be read."""

    records: list[Record] = field(default_factory=list)
    #: Kafka has them no more.
    missing: list[int] = field(default_factory=list)
    #: The partition ends before the next one that is still to be read.
    ended: bool = False


class Rereader:
    """One consumer without a group, on a thread of its own, for all partitions of a topic in turn."""

    def __init__(
        self, config: Mapping[str, Any], topic: Topic, group: str, share: Callable[[], float] = lambda: 1.0
    ) -> None:
        """`share` is that of the memory for records: it falls as streams are added, and what is read ahead with it."""
        own = {"group.id": group}
        unused = ("partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms")
        base = {key: value for key, value in BRIDGE_CONFIG.items() if key not in unused}
        self._config = FETCH_DEFAULTS | AGAIN | dict(config) | base | own
        self._topic = topic
        self._share = share
        #: Made for a pass, with the share that it was made for; closed when none has been wanted for a while.
        self._consumer: Any = None
        self._made = 1.0
        self._used = 0.0
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka reread")

    async def read(self, partition: int, wanted: Sequence[int], room: int = MAX_BYTES) -> Reread:
        """A pass over rising offsets of one partition, until so many bytes were found. Raises KafkaError."""
        most = min(room, MAX_BYTES)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, partition, wanted, most)

    def rest(self) -> None:
        """Nothing is wanted for now: after a while its connections and threads are let go."""
        if self._consumer is not None and time.monotonic() - self._used > REST_SECONDS:
            self._used = time.monotonic()
            self._thread.submit(self._close)

    def close(self) -> None:
        """A pass that is under way ends early."""
        self._closing = True
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _open(self) -> None:
        share = self._share()
        if share < self._made / 2:
            self._close()  # there are more streams now: its queue would be another one's memory
        if self._consumer is None:
            size = {"queued.max.messages.kbytes": queue_size(MAX_QUEUED_AGAIN, share)}
            self._consumer, self._made = made(ck.Consumer, self._config | size), share

    def _read(self, partition: int, wanted: Sequence[int], most: int) -> Reread:
        self._open()
        self._used = time.monotonic()
        try:
            self._consumer.assign([ck.TopicPartition(self._topic.name, partition, wanted[0])])
            found = self._collect(partition, deque(wanted), most)
            self._consumer.unassign()
        except ck.KafkaException as error:
            raise KafkaError("BrokerUnreachable", f"records not read again: {error.args[0].str()}") from error
        return found

    def _collect(self, partition: int, wanted: deque[int], most: int) -> Reread:
        found = Reread()
        size = 0
        now = heard = time.monotonic()
        end = now + PASS_SECONDS
        while wanted and size < most and now < end and now - heard < SILENCE_SECONDS and not self._closing:
            messages = self._consumer.consume(BATCH, 0.05)
            for message in messages:
                if size >= most:
                    return found  # what was fetched with it is fetched again
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
                found.ended = bool(wanted)
            elif code in (ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE):
                self._begin_again(partition, wanted, found)
            return 0
        self._miss(wanted, message.offset(), found)
        if not wanted or wanted[0] != message.offset():
            return 0
        wanted.popleft()
        record = read_message(message, self._topic)
        found.ended = False
        found.records.append(record)
        return record_cost(record)

    def _miss(self, wanted: deque[int], offset: int, found: Reread) -> None:
        """What was to come before this offset does not come any more."""
        while wanted and wanted[0] < offset:
            found.missing.append(wanted.popleft())

    def _begin_again(self, partition: int, wanted: deque[int], found: Reread) -> None:
        """The log begins later than it did, or ends earlier."""
        where = ck.TopicPartition(self._topic.name, partition)
        low, high = self._consumer.get_watermark_offsets(where, timeout=SILENCE_SECONDS)
        self._miss(wanted, low, found)
        found.ended = bool(wanted) and wanted[0] > high
        if wanted and not found.ended:
            self._consumer.assign([ck.TopicPartition(self._topic.name, partition, wanted[0])])

    def _jump(self, partition: int, wanted: deque[int], last: Any) -> None:
        if wanted and last.error() is None and wanted[0] - last.offset() > GAP:
            self._consumer.seek(ck.TopicPartition(self._topic.name, partition, wanted[0]))
