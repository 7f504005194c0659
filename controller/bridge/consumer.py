"""Consumes one topic as one member of the stream's group, until the topic or the member is no longer the same.

The guarantees depend on an order. Before the first create come a LIST, the entry in the status and an accepted commit;
before a record is used its topic's id is checked; before a commit the same position is in the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any

from controller import kafka
from controller.api.update_stream import UpdateStream
from controller.bridge import metrics
from controller.bridge.assignment import Assignment
from controller.bridge.backlogs import Backlogs
from controller.bridge.consuming_condition import ConsumerHealth
from controller.bridge.context import ConsumerContext
from controller.bridge.dispatch import Dispatcher
from controller.bridge.membership import GroupMembership
from controller.bridge.partitions import Partition
from controller.bridge.pausing import Pausing
from controller.bridge.pending import PartitionOffset, PendingRecord
from controller.bridge.rejected_events import RejectedEvents, RejectedRecord
from controller.bridge.stream_report import StreamReporter
from controller.bridge.working_set_reflector import WorkingSetReflector
from controller.core.records import Record, Rejection, read_record

logger = logging.getLogger(__name__)

#: Seconds between checks of the topic, which is also checked before each batch of records.
TOPIC_SECONDS = 2.0
#: Seconds between checks where batches come fast. It is short, so that a record that comes alone need not wait.
LOOK_SECONDS = 0.005
COMMIT_SECONDS = 1.0
OBSERVE_SECONDS = 0.5
RETRY_SECONDS = 0.5


class TopicConsumer:
    """Joins the group when it is made. `run` raises TopicChanged, KafkaError, NotFound (no such stream) or Outdated."""

    def __init__(self, context: ConsumerContext) -> None:
        self._context = context
        self._partitions = context.partitions
        self._rejected_events = RejectedEvents(context)
        self._dispatcher = Dispatcher(context, self._rejected_events)
        config, topic, group = context.config, context.topic, context.group
        fetcher = kafka.Fetcher(config, topic, group, lambda: context.memory_share)
        self._backlogs = Backlogs(context, fetcher, self._dispatcher, self._rejected_events)
        self._member = kafka.GroupMember(
            config, topic, group, context.instance, self._on_notification, lambda: context.memory_share
        )
        self._membership = GroupMembership(context, self._member)
        self._pausing = Pausing(context, self._dispatcher, self._backlogs, self._member, self._membership)
        self._reflector = WorkingSetReflector(context, self._dispatcher, self._pausing)
        self._health = ConsumerHealth(context, self._backlogs, self._pausing, self._membership)
        self._reporter = StreamReporter(context, self._health)
        self._assignment = Assignment(
            context, self._member, self._reflector, self._rejected_events, self._backlogs, self._reporter
        )
        self._fetched: list[tuple[Partition, Record | kafka.PartitionEnd]] = []
        self._fetched_bytes = 0
        self._arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """The group has given this member its partitions, if any, or the condition says why it has not."""
        return self._membership.joined or self._health.condition() is not None

    @property
    def reads(self) -> bool:
        """The group has given this member some partitions."""
        return bool(len(self._partitions))

    @property
    def backlog_counts(self) -> tuple[int, int]:
        """How many users have a backlog in this replica's partitions, and how many records these list."""
        return len(self._backlogs), self._backlogs.records

    def change(self, stream: UpdateStream) -> None:
        """The stream has a new spec that needs no new consumer: limits and suspensions act at once."""
        self._context.stream = stream
        self._dispatcher.working_set.limit(stream.limits)
        self._pausing.update()
        self._dispatcher.pump()

    def verify(self) -> None:
        """Read the status soon, to see whether it still has what was written to it."""
        self._reporter.verify()

    async def run(self) -> None:
        for work in (
            self._rejected_events.run(),
            *self._backlogs.background(),
            self._reporter.run(),
            self._check_topic(),
            self._commit(),
            *self._membership.background(),
            self._observe(),
        ):
            self._spawn(work)
        try:
            await self._context.failed()
        finally:
            await self._close()

    async def _close(self) -> None:
        """Stop reading. Creates under way are acknowledged before the partitions are given back."""
        self._dispatcher.close()
        await self._member.close()
        for part in (self._dispatcher, self._reflector, self._backlogs):
            part.stop()
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._context.start(work, self._tasks)

    def _on_notification(self, notification: kafka.Notification) -> None:
        match notification:
            case kafka.Assigned(numbers, serial):
                self._membership.assigned()
                self._context.start_error = None
                if numbers:
                    self._spawn(self._assignment.assigned(self._partitions.assign(numbers, serial)))
                    self._context.count_replicas()
            case kafka.Revoked(numbers, lost, released):
                if lost:
                    self._membership.lost()
                gone = self._partitions.revoke(numbers)
                self._membership.fetched(numbers)
                self._dispatcher.forget(gone)
                self._backlogs.revoke(gone)
                self._rejected_events.forget()
                self._spawn(self._assignment.revoked(gone, released))
                self._context.count_replicas()
            case kafka.Fetched(items, size):
                self._context.start_error = None
                self._membership.served()
                self._membership.fetched({item.partition for item in items})
                self._fetched_bytes += size
                self._fetched += [(p, item) for item in items if (p := self._partitions.get(item.partition))]
                self._arrived.set()
            case kafka.Committed(offsets, sent):
                self._membership.served()
                self._partitions.committed(offsets, sent)
            case kafka.CommitRefused(message):
                self._partitions.commit_refused = message
            case kafka.OffsetOutOfRange(number):
                if partition := self._partitions.get(number):
                    self._spawn(self._assignment.offset_out_of_range(partition))
            case kafka.RequestRefused(refusal, partition_number):
                self._membership.refused(refusal, partition_number)
            case kafka.MemberFailed(reason, message):
                self._context.fail(kafka.KafkaError(reason, message))

    async def _check_topic(self) -> None:
        """Take up records once the topic's id was checked: a topic that was made again has others at their offsets."""
        looked = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TOPIC_SECONDS):  # without the task that wait_for makes, for each record
                    await self._arrived.wait()
            await asyncio.sleep(max(0.0, looked + LOOK_SECONDS - time.monotonic()))
            looked = time.monotonic()
            self._arrived.clear()
            fetched, self._fetched = self._fetched, []
            size, self._fetched_bytes = self._fetched_bytes, 0
            try:
                await self._context.verify_topic()
            except kafka.KafkaError as error:
                self._context.topic_error = error
                self._fetched = fetched + self._fetched
                self._fetched_bytes += size
                self._arrived.set()
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._admit(fetched)
                self._member.consumed(size)

    def _admit(self, fetched: list[tuple[Partition, Record | kafka.PartitionEnd]]) -> None:
        now, new = time.monotonic(), 0
        for partition, item in fetched:
            if partition.revoked or partition.tracker is None:
                continue
            if isinstance(item, kafka.PartitionEnd):
                partition.tracker.reach(item.offset)
            elif partition.tracker.begin(item.offset):
                new += self._context.counted.is_new(item.topic_id, item.partition, item.offset)
                self._take_up(partition, item, now)
        metrics.RECORDS.labels(*self._context.stream_labels).inc(new)
        self._dispatcher.pump()
        self._pausing.update()

    def _take_up(self, partition: Partition, record: Record, now: float) -> None:
        event, origin = read_record(record), PartitionOffset(partition, record.offset)
        if isinstance(event, Rejection):
            self._rejected_events.add(RejectedRecord.of(self._context.stream, record, event, origin))
        elif event.user not in self._backlogs or not self._backlogs.append(event.user, partition, record.offset):
            self._dispatcher.offer(PendingRecord(record, event, origin, self._context.read_ahead, now))

    async def _observe(self) -> None:
        while True:
            self._health.observe()
            self._pausing.observe()
            self._show_metrics()
            await asyncio.sleep(OBSERVE_SECONDS)

    async def _commit(self) -> None:
        """Commit every second, whether positions have moved or not: an accepted commit holds the assignment."""
        while True:
            if recorded := self._partitions.recorded:
                self._member.commit(recorded)
            await asyncio.sleep(COMMIT_SECONDS)

    def _show_metrics(self) -> None:
        labels = self._context.stream_labels
        metrics.LAG.labels(*labels).set(sum(p.lag or 0 for p in self._partitions.known))
        metrics.SLOTS.labels(*labels).set(self._dispatcher.working_set.taken)
        metrics.READ_AHEAD.labels(*labels).set(self._context.read_ahead.total)
        metrics.WAITING_USERS.labels(*labels).set(len(self._dispatcher.pending))
        metrics.BACKLOG_USERS.labels(*labels).set(len(self._backlogs))
        metrics.BACKLOG_RECORDS.labels(*labels).set(self._backlogs.records)
