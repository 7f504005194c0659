"""One member of a stream's consumer group, on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import confluent_kafka as ck

from controller.core.records import Record
from controller.kafka.admin import explained, words
from controller.kafka.config import BRIDGE_CONFIG, FETCH_DEFAULTS, MAX_QUEUED, REQUEST_SECONDS, made, queue_size
from controller.kafka.notifications import (
    Assigned,
    CommitRefused,
    Committed,
    Event,
    Failed,
    Fetched,
    OutOfRange,
    Reached,
    Refused,
    Revoked,
    read_message,
    record_cost,
)
from controller.kafka.topics import Topic

logger = logging.getLogger(__name__)

#: How long the thread waits for a record; a command waits at most as long. Of a hundred idle streams each has one.
POLL_SECONDS = 0.2
BATCH = 500
#: Bytes that may be on their way from the thread to whoever keeps account of them.
MAX_ON_THE_WAY = 4 << 20
#: A pattern for topics; their names have no spaces.
NO_TOPIC = "^ $"
#: With no room for so long reading is paused: who does not poll keeps the whole group from rebalancing.
FULL_SECONDS = 5.0
#: A revoked partition waits so long for its creates in flight.
RELEASE_SECONDS = 3.0


class GroupMember:
    """One member of a stream's consumer group, static: a restarted process of the same identity takes its place.

    `deliver` is called on the loop, once for each event, in their order.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: Topic,
        group: str,
        instance: str,
        deliver: Callable[[Event], None],
        share: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """`share` is that of the memory for records which are on their way: it falls as streams are added.

        What librdkafka itself reads ahead is fixed here, by the streams that there are now.
        """
        self._topic = topic
        self._group = group
        #: What librdkafka said last of a connection, for people; empty: nothing yet.
        self.said = ""
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._commands: deque[Callable[[], None]] = deque()
        #: Partitions that are assigned, by which assignment, and those of them that are read.
        self._owned: dict[int, int] = {}
        self._assignments = 0
        self._begun: set[int] = set()
        #: Asked for; no room for what is read; what librdkafka was told.
        self._to_pause = self._full = self._paused = False
        self._full_since: float | None = None
        self._sent: deque[float] = deque()
        self._on_the_way = 0
        self._share = share
        self._room = threading.Condition()
        self._closing = threading.Event()
        own = {
            "group.id": group,
            "group.instance.id": instance,
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
            "queued.max.messages.kbytes": queue_size(MAX_QUEUED, share()),
        }
        self._consumer = made(ck.Consumer, FETCH_DEFAULTS | dict(config) | BRIDGE_CONFIG | own)
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=f"kafka {instance}", daemon=True)
        self._thread.start()

    def begin(self, starts: Mapping[tuple[int, int], int]) -> None:
        """Read partitions from these offsets on; each is named with the serial of its assignment."""
        self._commands.append(lambda: self._begin(dict(starts)))

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Ask the coordinator to take these offsets; `Committed` follows if it does."""
        self._commands.append(lambda: self._commit(dict(offsets)))

    def admitted(self, size: int) -> None:
        """So many bytes of what was `Fetched` are accounted for by their reader: as much more may be on its way."""
        with self._room:
            self._on_the_way -= size
            self._room.notify()

    def pause(self) -> None:
        """Read no further; the assignment is kept."""
        self._commands.append(lambda: self._set_to_pause(True))

    def resume(self) -> None:
        self._commands.append(lambda: self._set_to_pause(False))

    async def close(self) -> None:
        """Stop reading. The static membership lasts until its session ends: docs/decisions/0040-group-membership.md."""
        self._closing.set()
        with self._room:
            self._room.notify()
        await asyncio.wait([self._closed], timeout=2 * RELEASE_SECONDS)

    def rejoin(self) -> None:
        """Join the group anew, so that its partitions are counted again. Nothing is revoked for it."""
        self._commands.append(self._rejoin)

    def _run(self) -> None:
        try:
            self._subscribe(self._topic.name)
            while not self._closing.is_set():
                self._turn()
        except Exception as error:
            logger.exception("Kafka consumer failed")
            self._tell(Failed("ConsumerFailed", str(error)))
        finally:
            self._consumer.close()
            self._on_loop(self._finish)

    def _turn(self) -> None:
        while self._commands:
            self._commands.popleft()()
        with self._room:
            has_room = self._room.wait_for(self._has_room, POLL_SECONDS)
        if has_room:
            self._full_since = None
        elif not self._full_for(FULL_SECONDS):
            return
        self._full = not has_room
        self._steer()
        if (first := self._consumer.poll(POLL_SECONDS)) is not None:
            self._fetched([first, *self._consumer.consume(BATCH - 1, 0)])

    def _subscribe(self, *topics: str) -> None:
        self._consumer.subscribe(
            list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _rejoin(self) -> None:
        # librdkafka joins again where the subscription is another one: by a pattern that no topic's name can match.
        self._subscribe(self._topic.name, NO_TOPIC)
        self._subscribe(self._topic.name)

    def _full_for(self, seconds: float) -> bool:
        now = time.monotonic()
        self._full_since = self._full_since or now
        return now - self._full_since >= seconds

    def _has_room(self) -> bool:
        return self._on_the_way < MAX_ON_THE_WAY * self._share() or self._closing.is_set()

    def _fetched(self, messages: list[Any]) -> None:
        items: list[Record | Reached] = []
        size = 0
        for message in messages:
            if (error := message.error()) is not None:
                self._on_message_error(message, error, items)
            elif message.partition() in self._begun:
                record = read_message(message, self._topic)
                size += record_cost(record)
                items.append(record)
        if items:
            with self._room:
                self._on_the_way += size
            self._tell(Fetched(items, size))

    def _on_message_error(self, message: Any, error: ck.KafkaError, items: list[Record | Reached]) -> None:
        code, partition = error.code(), message.partition()
        if code == ck.KafkaError._PARTITION_EOF:
            if partition in self._begun:
                items.append(Reached(partition, message.offset()))
        elif code in (ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE):
            self._tell(OutOfRange(partition))
        elif code == ck.KafkaError._FATAL:  # a consumer is told here that it is of no use any more, not by error_cb
            self._fail(error)
        else:
            refused = explained(error, self._topic.name, self._group)
            self._tell(Refused(refused, partition if partition >= 0 else None))

    def _begin(self, wanted: dict[tuple[int, int], int]) -> None:
        # What was revoked since the loop decided to begin is another member's, or, assigned again, begins anew: read
        # from the old offset, its first records would come before its tracker is there, and the later ones be taken
        # for all that there is.
        starts = {p: offset for (p, serial), offset in wanted.items() if self._owned.get(p) == serial}
        partitions = [ck.TopicPartition(self._topic.name, partition, offset) for partition, offset in starts.items()]
        if again := [p for p in partitions if p.partition in self._begun]:
            self._consumer.incremental_unassign(again)
        self._consumer.incremental_assign(partitions)
        self._begun.update(starts)
        if self._paused:
            self._consumer.pause(partitions)

    def _commit(self, offsets: dict[int, int]) -> None:
        """One request at a time, so that an answer tells when it was sent; a lost answer does not stop the next."""
        now = time.monotonic()
        if self._sent and now - self._sent[-1] < REQUEST_SECONDS:
            return
        partitions = [ck.TopicPartition(self._topic.name, p, offset) for p, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=partitions, asynchronous=True)
        except ck.KafkaException as error:
            self._tell(CommitRefused(error.args[0].str()))
        else:
            self._sent.append(now)

    def _on_commit(self, error: ck.KafkaError | None, partitions: list[ck.TopicPartition]) -> None:
        sent = self._sent.popleft() if self._sent else float("-inf")
        taken = {p.partition: p.offset for p in partitions if error is None and p.error is None}
        if taken:
            self._tell(Committed(taken, sent))
        if refused := error or next((p.error for p in partitions if p.error is not None), None):
            self._tell(CommitRefused(refused.str()))

    def _set_to_pause(self, paused: bool) -> None:
        self._to_pause = paused
        self._steer()

    def _steer(self) -> None:
        paused = self._to_pause or self._full
        if paused == self._paused:
            return
        self._paused = paused
        partitions = [ck.TopicPartition(self._topic.name, partition) for partition in self._begun]
        if partitions:
            (self._consumer.pause if paused else self._consumer.resume)(partitions)

    def _on_assign(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        # The assignment is taken empty: it is filled by `begin`, when the offsets to begin at are known.
        consumer.incremental_assign([])
        self._assignments += 1
        numbers = tuple(p.partition for p in partitions)
        self._owned.update(dict.fromkeys(numbers, self._assignments))
        self._tell(Assigned(numbers, self._assignments))  # none, too: this member has its place

    def _on_revoke(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        # Unassigning lets librdkafka rejoin the group at once, so what is in flight is waited for before it.
        if partitions:
            event = Revoked(tuple(p.partition for p in partitions))
            self._tell(event)
            self._commit_last(consumer, event)
        self._unassign(consumer, partitions)

    def _on_lost(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        if partitions:
            self._tell(Revoked(tuple(p.partition for p in partitions), lost=True))
        self._unassign(consumer, partitions)

    def _commit_last(self, consumer: ck.Consumer, event: Revoked) -> None:
        try:
            last = event.released.result(RELEASE_SECONDS)
            if offsets := [ck.TopicPartition(self._topic.name, p, offset) for p, offset in last.items()]:
                consumer.commit(offsets=offsets, asynchronous=True)
                self._sent.append(float("-inf"))
        except (FutureTimeout, ck.KafkaException) as error:
            logger.warning("Partitions released without a last commit: %r", error)

    def _unassign(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        consumer.incremental_unassign([p for p in partitions if p.partition in self._begun])
        self._begun.difference_update(p.partition for p in partitions)
        for partition in partitions:
            self._owned.pop(partition.partition, None)

    def _on_error(self, error: ck.KafkaError) -> None:
        self.said = words(error)
        if error.fatal():
            self._fail(error)

    def _fail(self, error: ck.KafkaError) -> None:
        """Another process of this identity has joined, or the answer to this one's own joining was lost."""
        cure = "it joins again; where this goes on, another process has this identity"
        self._tell(Failed("MemberFenced", f"{error.str()}: {cure}"))

    def _tell(self, event: Event) -> None:
        self._on_loop(self._deliver, event)

    def _finish(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)

    def _on_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: the process ends
            self._closing.set()
