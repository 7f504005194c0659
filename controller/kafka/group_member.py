"""One member of a stream's consumer group, on a thread of its own.

The thread boundary: librdkafka's consumer blocks, so one thread makes every call to it. The event loop asks the thread
for something by a method of `GroupMember`, which puts a command into a queue and returns at once. The thread answers
by a `Notification`, which it delivers on the event loop. Neither side reads the other's state, with three exceptions:
the bytes that are not consumed yet, guarded by a lock; `last_error`, a string that the thread sets; and the number that
`share` returns to the thread.
"""

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
from controller.kafka.admin import error_text, explain
from controller.kafka.config import (
    BRIDGE_CONFIG,
    FETCH_DEFAULTS,
    MAX_QUEUED,
    REQUEST_SECONDS,
    create_client,
    queue_kbytes,
)
from controller.kafka.messages import read_message, record_cost
from controller.kafka.notifications import (
    Assigned,
    CommitRefused,
    Committed,
    Fetched,
    MemberFailed,
    Notification,
    OffsetOutOfRange,
    PartitionEnd,
    RequestRefused,
    Revoked,
)
from controller.kafka.topics import Topic

logger = logging.getLogger(__name__)

#: Seconds for which the thread waits for a record; a command waits as long at most. A process with a hundred idle
#: streams has a hundred such threads, so it is not shorter.
POLL_SECONDS = 0.2
#: Messages in one notification at most.
BATCH = 500
#: Bytes of records that may have been delivered to the event loop and not been consumed by it.
MAX_UNCONSUMED = 4 << 20
#: A pattern that matches no topic, as their names have no spaces.
NO_TOPIC = "^ $"
#: Seconds with MAX_UNCONSUMED bytes after which the thread pauses the partitions and polls again: a member that does
#: not poll keeps the whole group from rebalancing.
FULL_SECONDS = 5.0
#: Seconds for which the revocation of a partition waits for the creates that are under way.
RELEASE_SECONDS = 3.0


class GroupMember:
    """One member of a stream's consumer group.

    The membership is static: a process that is started again with the same instance id takes the place of the one
    before it (docs/decisions/0040-group-membership.md). All methods are called on the event loop.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: Topic,
        group: str,
        instance: str,
        deliver: Callable[[Notification], None],
        share: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """Start the thread, which joins the group.

        `config` is that of `client_config`, `instance` the `group.instance.id`. `deliver` is called on the event loop,
        once for each notification, in their order. `share` is the part of MAX_UNCONSUMED that may be used, from 0 to 1:
        it falls as streams are added. The size of librdkafka's own queue is fixed by what it is now.

        Raises KafkaError(ConfigRefused).
        """
        self._topic = topic
        self._group = group
        #: The last message of librdkafka about a connection, for people; empty: there was none yet.
        self.last_error = ""
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._commands: deque[Callable[[], None]] = deque()
        #: The assigned partitions, with the serial of their assignment.
        self._assigned: dict[int, int] = {}
        self._assignments = 0
        #: Those of them that are fetched.
        self._fetching: set[int] = set()
        #: `pause` was called; the event loop consumes too slowly; librdkafka has paused the partitions.
        self._to_pause = self._full = self._paused = False
        self._full_since: float | None = None
        #: When each commit was sent that has no answer yet.
        self._commits: deque[float] = deque()
        self._unconsumed = 0
        self._share = share
        self._room = threading.Condition()
        self._closing = threading.Event()
        own = {
            "group.id": group,
            "group.instance.id": instance,
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
            "queued.max.messages.kbytes": queue_kbytes(MAX_QUEUED, share()),
        }
        self._consumer = create_client(ck.Consumer, FETCH_DEFAULTS | dict(config) | BRIDGE_CONFIG | own)
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=f"kafka {instance}", daemon=True)
        self._thread.start()

    def fetch_from(self, offsets: Mapping[tuple[int, int], int]) -> None:
        """Fetch partitions from these offsets on. Each is named by its number and the serial of its assignment."""
        self._commands.append(lambda: self._fetch_from(dict(offsets)))

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Ask the coordinator to accept these offsets, by partition. `Committed` or `CommitRefused` follows."""
        self._commands.append(lambda: self._commit(dict(offsets)))

    def consumed(self, size: int) -> None:
        """The event loop now accounts for so many bytes of what was `Fetched`: as many more may be delivered."""
        with self._room:
            self._unconsumed -= size
            self._room.notify()

    def pause(self) -> None:
        """Fetch no further; the partitions stay assigned."""
        self._commands.append(lambda: self._set_to_pause(True))

    def resume(self) -> None:
        """Fetch on after `pause`."""
        self._commands.append(lambda: self._set_to_pause(False))

    def enforce_rebalance(self) -> None:
        """Join the group anew, so that the coordinator counts the partitions again. No partition is revoked for it."""
        self._commands.append(self._enforce_rebalance)

    async def close(self) -> None:
        """Stop fetching, and end the thread. The member stays in the group until its session times out."""
        self._closing.set()
        with self._room:
            self._room.notify()
        await asyncio.wait([self._closed], timeout=2 * RELEASE_SECONDS)

    # The methods below run on the thread.

    def _run(self) -> None:
        try:
            self._subscribe(self._topic.name)
            while not self._closing.is_set():
                self._poll()
        except Exception as error:
            logger.exception("Kafka consumer failed")
            self._notify(MemberFailed("ConsumerFailed", str(error)))
        finally:
            self._consumer.close()
            self._on_loop(self._finish)

    def _poll(self) -> None:
        """Once: carry out the commands, then deliver what librdkafka has."""
        while self._commands:
            self._commands.popleft()()
        with self._room:
            has_room = self._room.wait_for(self._has_room, POLL_SECONDS)
        if has_room:
            self._full_since = None
        elif not self._full_for(FULL_SECONDS):
            return
        self._full = not has_room
        self._pause_or_resume()
        if (first := self._consumer.poll(POLL_SECONDS)) is not None:
            self._deliver_messages([first, *self._consumer.consume(BATCH - 1, 0)])

    def _subscribe(self, *topics: str) -> None:
        self._consumer.subscribe(
            list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _enforce_rebalance(self) -> None:
        # librdkafka joins again when the subscription changes: here by a pattern that no topic's name matches.
        self._subscribe(self._topic.name, NO_TOPIC)
        self._subscribe(self._topic.name)

    def _full_for(self, seconds: float) -> bool:
        now = time.monotonic()
        self._full_since = self._full_since or now
        return now - self._full_since >= seconds

    def _has_room(self) -> bool:
        return self._unconsumed < MAX_UNCONSUMED * self._share() or self._closing.is_set()

    def _deliver_messages(self, messages: list[Any]) -> None:
        items: list[Record | PartitionEnd] = []
        size = 0
        for message in messages:
            if (error := message.error()) is not None:
                self._on_message_error(message, error, items)
            elif message.partition() in self._fetching:
                record = read_message(message, self._topic)
                size += record_cost(record)
                items.append(record)
        if items:
            with self._room:
                self._unconsumed += size
            self._notify(Fetched(items, size))

    def _on_message_error(self, message: Any, error: ck.KafkaError, items: list[Record | PartitionEnd]) -> None:
        code, partition = error.code(), message.partition()
        if code == ck.KafkaError._PARTITION_EOF:
            if partition in self._fetching:
                items.append(PartitionEnd(partition, message.offset()))
        elif code in (ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE):
            self._notify(OffsetOutOfRange(partition))
        elif code == ck.KafkaError._FATAL:  # a consumer hears of a fatal error here, and not by error_cb
            self._fail(error)
        else:
            refused = explain(error, self._topic.name, self._group)
            self._notify(RequestRefused(refused, partition if partition >= 0 else None))

    def _fetch_from(self, wanted: dict[tuple[int, int], int]) -> None:
        # A partition may have been revoked since the event loop chose its offset, and be assigned again by now. Then
        # the event loop chooses anew. To fetch from the old offset would deliver records before their partition is
        # tracked, and the later ones would be taken for all that there are.
        offsets = {p: offset for (p, serial), offset in wanted.items() if self._assigned.get(p) == serial}
        partitions = [ck.TopicPartition(self._topic.name, partition, offset) for partition, offset in offsets.items()]
        if again := [p for p in partitions if p.partition in self._fetching]:
            self._consumer.incremental_unassign(again)
        self._consumer.incremental_assign(partitions)
        self._fetching.update(offsets)
        if self._paused:
            self._consumer.pause(partitions)

    def _commit(self, offsets: dict[int, int]) -> None:
        """One request at a time, so that each answer can be matched with the time at which its request was sent.

        A request without an answer does not hold up the next one for longer than REQUEST_SECONDS.
        """
        now = time.monotonic()
        if self._commits and now - self._commits[-1] < REQUEST_SECONDS:
            return
        partitions = [ck.TopicPartition(self._topic.name, p, offset) for p, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=partitions, asynchronous=True)
        except ck.KafkaException as error:
            self._notify(CommitRefused(error.args[0].str()))
        else:
            self._commits.append(now)

    def _on_commit(self, error: ck.KafkaError | None, partitions: list[ck.TopicPartition]) -> None:
        sent = self._commits.popleft() if self._commits else float("-inf")
        accepted = {p.partition: p.offset for p in partitions if error is None and p.error is None}
        if accepted:
            self._notify(Committed(accepted, sent))
        if refused := error or next((p.error for p in partitions if p.error is not None), None):
            self._notify(CommitRefused(refused.str()))

    def _set_to_pause(self, paused: bool) -> None:
        self._to_pause = paused
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        paused = self._to_pause or self._full
        if paused == self._paused:
            return
        self._paused = paused
        partitions = [ck.TopicPartition(self._topic.name, partition) for partition in self._fetching]
        if partitions:
            (self._consumer.pause if paused else self._consumer.resume)(partitions)

    def _on_assign(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        # librdkafka is given no partition here, so that it fetches nothing. `fetch_from` adds the partitions when the
        # offsets to begin at are known.
        consumer.incremental_assign([])
        self._assignments += 1
        numbers = tuple(p.partition for p in partitions)
        self._assigned.update(dict.fromkeys(numbers, self._assignments))
        self._notify(Assigned(numbers, self._assignments))  # also where there is none: the member is in the group

    def _on_revoke(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        # After incremental_unassign librdkafka joins the group again at once: so the creates under way come first.
        if partitions:
            revoked = Revoked(tuple(p.partition for p in partitions))
            self._notify(revoked)
            self._commit_last(consumer, revoked)
        self._unassign(consumer, partitions)

    def _on_lost(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        if partitions:
            self._notify(Revoked(tuple(p.partition for p in partitions), lost=True))
        self._unassign(consumer, partitions)

    def _commit_last(self, consumer: ck.Consumer, revoked: Revoked) -> None:
        try:
            last = revoked.released.result(RELEASE_SECONDS)
            if offsets := [ck.TopicPartition(self._topic.name, p, offset) for p, offset in last.items()]:
                consumer.commit(offsets=offsets, asynchronous=True)
                self._commits.append(float("-inf"))
        except (FutureTimeout, ck.KafkaException) as error:
            logger.warning("Partitions released without a last commit: %r", error)

    def _unassign(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        consumer.incremental_unassign([p for p in partitions if p.partition in self._fetching])
        self._fetching.difference_update(p.partition for p in partitions)
        for partition in partitions:
            self._assigned.pop(partition.partition, None)

    def _on_error(self, error: ck.KafkaError) -> None:
        self.last_error = error_text(error)
        if error.fatal():
            self._fail(error)

    def _fail(self, error: ck.KafkaError) -> None:
        """Another process has joined with this instance id, or the answer to this member's own request was lost."""
        cure = "it joins again; where this goes on, another process has this identity"
        self._notify(MemberFailed("MemberFenced", f"{error.str()}: {cure}"))

    def _notify(self, notification: Notification) -> None:
        self._on_loop(self._deliver, notification)

    def _finish(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)

    def _on_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: the process ends
            self._closing.set()
