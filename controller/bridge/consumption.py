"""One topic consumed by one group member: assignment, start, records, positions; until one of them changes for good.

The order is the guarantee: LIST, status entry and commit before the first create; a record's topic id checked before
the record is used; `position` in the status before the commit that mirrors it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from controller import kafka
from controller.api.update_stream import UpdateStream
from controller.bridge import metrics
from controller.bridge.assignment import Assignment
from controller.bridge.backlogs.overflow import Overflow
from controller.bridge.backlogs.rereading import Rereading
from controller.bridge.backlogs.writer import BacklogWriter
from controller.bridge.dispatch import Dispatch
from controller.bridge.joining import Joining
from controller.bridge.measuring import measure
from controller.bridge.membership import watch_assignment
from controller.bridge.partitions import Partition, Partitions
from controller.bridge.pausing import Steering
from controller.bridge.pending import Waiting
from controller.bridge.rejected_events import Rejected, Rejecter
from controller.bridge.stream_report import Consuming, Counts, Reporter, unless_unseen
from controller.bridge.unfinished import Unfinished
from controller.clients.cluster import Cluster
from controller.clients.event_recorder import EventRecorder
from controller.clients.process_lease import Presence
from controller.clients.stream_status import StreamStatus
from controller.core.records import Record, Rejection, read_record

logger = logging.getLogger(__name__)

#: The topic is looked at so often, and before each batch of records.
TOPIC_SECONDS = 2.0
#: At most so often, however many batches come: a record that comes alone is not kept waiting.
LOOK_SECONDS = 0.005
COMMIT_SECONDS = 1.0
STEER_SECONDS = 0.5
RETRY_SECONDS = 0.5
#: Times in a row that the topic must be missing: brokers learn of a new topic one after the other.
MISSING_TIMES = 2
#: Brokers tell of a topic that is no more for seconds. Told the same for so long, its former ids are gone.
CERTAIN_SECONDS = 60.0


class Over(Exception):
    """This consumption is at its end; another one is to be begun."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a consumption works with."""

    cluster: Cluster
    stream: UpdateStream
    status: StreamStatus
    lookup: kafka.TopicLookup
    config: dict[str, Any]
    topic: kafka.Topic
    #: Name of this replica within the stream's group.
    instance: str
    presence: Presence
    counts: Callable[[], Counts]
    #: Of the memory that a stream may use when there are few.
    share: Callable[[], float]
    recorder: EventRecorder
    #: Outlives this consumption.
    counted: metrics.Counted


class Consumption:
    """Begun when it is made; `run` lasts until Over, KafkaError, NotFound (the stream is gone) or WentBack ends it."""

    def __init__(self, context: Context) -> None:
        cluster, stream, topic = context.cluster, context.stream, context.topic
        group, counts, share = stream.kafka.group_id, context.counts, context.share
        self._presence, self._lookup, self._counted = context.presence, context.lookup, context.counted
        self._topic, self._partitions = topic, Partitions()
        self._overflow = Overflow(self._partitions, self._finish)
        self._rejecter = Rejecter(cluster, stream, self._partitions)
        self._dispatch = Dispatch(cluster, stream, self._partitions, self._made, self._reject, self._end)
        self._unfinished = Unfinished(
            cluster, stream.namespace, stream.name, self._dispatch.slots, self._dispatch.links, self._freed, self._end
        )
        reader = kafka.Rereader(context.config, topic, group, share)
        self._writer = BacklogWriter(cluster, stream, topic, self._overflow, self._partitions, self._end, reader)
        self._member = kafka.GroupMember(context.config, topic, group, context.instance, self._on_event, share)
        self._joining = Joining(stream, lambda: self._topic.partitions, lambda: self._member.said)
        self._steering = Steering(
            self._dispatch,
            self._rejecter,
            self._writer,
            self._overflow,
            self._partitions,
            self._member,
            self._joining,
            counts,
            share,
        )
        self._reporter = Reporter(context.status, topic, self._partitions, self._condition, counts, self._certain)
        self._assignment = Assignment(
            topic,
            context.lookup,
            context.status,
            self._partitions,
            self._dispatch,
            self._overflow,
            self._unfinished,
            self._rejecter,
            self._writer,
            self._reporter,
            self._member,
            self._refuse,
            self._joining.troubles,
            context.recorder,
        )
        self._rereading = Rereading(
            reader,
            self._overflow,
            self._partitions,
            self._dispatch.lanes,
            self._look_at_topic,
            self._offer,
            self._assignment.expire_one,
            lambda: self._steering.held_up,
            share,
        )
        self._fetched: list[tuple[Partition, Record | kafka.Reached]] = []
        self._missing = self._on_the_way = 0
        self._arrived = asyncio.Event()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun = self._seen = time.monotonic()

    @property
    def stream(self) -> UpdateStream:
        return self._dispatch.stream

    @property
    def settled(self) -> bool:
        """The group has given this member its partitions, if only none, or the condition says why it does not."""
        return self._joining.joined or self._steering.condition() is not None

    @property
    def reads(self) -> bool:
        """The group has given this member some partitions."""
        return bool(len(self._partitions))

    @property
    def put_aside(self) -> tuple[int, int]:
        """Users with a backlog of partitions that are this replica's, and the records in these."""
        return len(self._overflow), self._overflow.records

    def change(self, stream: UpdateStream) -> None:
        """A new spec that needs no new consumer: limits and suspensions act at once."""
        self._dispatch.stream = stream
        self._dispatch.slots.limit(stream.limits)
        self._steering.steer()
        self._dispatch.pump()

    def verify(self) -> None:
        """See whether the status still knows what was written to it."""
        self._reporter.verify()

    async def run(self) -> None:
        for work in (
            self._rejecter.run(),
            self._writer.run(),
            self._rereading.run(),
            self._reporter.run(),
            self._check_topic(),
            self._commit(),
            measure(
                self._lookup,
                self._joining,
                self._partitions,
                lambda: self._there,
                self._member.begin,
                committed=self.stream.kafka.config.get("isolation.level") != "read_uncommitted",
            ),
            watch_assignment(self._lookup, self._joining, self._member.rejoin),
            self._look(),
        ):
            self._spawn(work)
        try:
            await self._ended
        finally:
            await self._close()

    async def _close(self) -> None:
        """Stop reading; what is being created is acknowledged before the partitions are let go."""
        self._dispatch.close()
        await self._member.close()
        for part in (self._dispatch, self._unfinished, self._writer):
            part.stop()
        self._rereading.close()
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """A task whose error ends the consumption."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end(error)

    def _end(self, error: BaseException) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    def _on_event(self, event: kafka.Event) -> None:
        match event:
            case kafka.Assigned(numbers, serial):
                self._joining.assigned()
                self._steering.refused = None
                if numbers:
                    self._spawn(self._assignment.take_up(self._partitions.assign(numbers, serial)))
                    self._count_replicas()
            case kafka.Revoked(numbers, lost, released):
                if lost:
                    self._joining.lost()
                gone = self._partitions.revoke(numbers)
                self._joining.fetched(numbers)
                self._dispatch.forget(gone)
                self._overflow.forget(gone)
                self._rejecter.forget()
                self._spawn(self._assignment.let_go(gone, released))
                self._count_replicas()
            case kafka.Fetched(items, size):
                self._steering.refused = None
                self._joining.served()
                self._joining.fetched({item.partition for item in items})
                self._on_the_way += size
                self._fetched += [(p, item) for item in items if (p := self._partitions.get(item.partition))]
                self._arrived.set()
            case kafka.Committed(offsets, sent):
                self._joining.served()
                self._partitions.committed(offsets, sent)
            case kafka.CommitRefused(message):
                self._partitions.commit_refused = message
            case kafka.OutOfRange(number):
                if partition := self._partitions.get(number):
                    self._spawn(self._assignment.find_range(partition))
            case kafka.Refused(refusal, partition_number):
                self._joining.refused(refusal, partition_number)
            case kafka.Failed(reason, message):
                self._end(kafka.KafkaError(reason, message))

    async def _check_topic(self) -> None:
        """Admit records once the topic is known to be the same: one made again starts at 0 and goes on from there."""
        looked = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TOPIC_SECONDS):  # without the task that wait_for makes, for each record
                    await self._arrived.wait()
            await asyncio.sleep(max(0.0, looked + LOOK_SECONDS - time.monotonic()))
            looked = time.monotonic()
            self._arrived.clear()
            fetched, self._fetched = self._fetched, []
            size, self._on_the_way = self._on_the_way, 0
            try:
                await self._look_at_topic()
            except kafka.KafkaError as error:
                self._steering.broker_error = error
                self._fetched = fetched + self._fetched
                self._on_the_way += size
                self._arrived.set()
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._admit(fetched)
                self._member.admitted(size)

    async def _look_at_topic(self) -> None:
        """Raises Over when it is another one, or when it stays missing; KafkaError when that is not known."""
        try:
            topic = await self._lookup.describe()
        except kafka.KafkaError as error:
            self._missing = self._missing + 1 if error.reason == "TopicMissing" else 0
            if self._missing >= MISSING_TIMES:
                raise Over(str(error)) from error
            raise
        if topic.id != self._topic.id:
            raise Over(f"topic {topic.name} was made again")
        self._missing = 0
        self._seen = time.monotonic()
        self._steering.broker_error = None
        if topic.partitions != self._topic.partitions:
            self._topic = topic
            self._count_replicas()

    def _certain(self) -> bool:
        return self._seen - self._begun >= CERTAIN_SECONDS

    def _condition(self) -> Consuming | None:
        consuming = self._steering.condition()
        return consuming and unless_unseen(consuming, self._presence)

    def _count_replicas(self) -> None:
        self._dispatch.alone = len(self._there) == self._topic.partitions

    @property
    def _there(self) -> list[Partition]:
        """Without those that the topic had before it was made again with fewer: a static member keeps them."""
        return [partition for partition in self._partitions if partition.number < self._topic.partitions]

    def _admit(self, fetched: list[tuple[Partition, Record | kafka.Reached]]) -> None:
        now, new = time.monotonic(), 0
        for partition, item in fetched:
            if partition.revoked or partition.tracker is None:
                continue
            if isinstance(item, kafka.Reached):
                partition.tracker.reach(item.offset)
            elif partition.tracker.begin(item.offset):
                new += self._counted.is_new(item.topic_id, item.partition, item.offset)
                self._judge(partition, item, now)
        metrics.RECORDS.labels(self.stream.namespace, self.stream.name).inc(new)
        self._dispatch.pump()
        self._steering.steer()

    def _judge(self, partition: Partition, record: Record, now: float) -> None:
        verdict = read_record(record)
        if isinstance(verdict, Rejection):
            done = partial(self._finish, partition, record.offset)
            self._rejecter.add(Rejected.of(self.stream, record, verdict, partition, done))
        elif verdict.user not in self._overflow or not self._overflow.append(verdict.user, partition, record.offset):
            self._dispatch.offer(Waiting(verdict.user, record, partition, kafka.record_cost(record), now))

    def _offer(self, waiting: Waiting) -> None:
        self._dispatch.offer(waiting)
        self._dispatch.pump()

    def _made(self, waiting: Waiting) -> None:
        self._settled(waiting)
        assert waiting.partition.tracker is not None
        waiting.partition.tracker.made(waiting.record.offset)

    def _settled(self, waiting: Waiting) -> None:
        if waiting.from_backlog:
            self._overflow.take(waiting.user, waiting.partition, waiting.record.offset)
        else:
            self._finish(waiting.partition, waiting.record.offset)

    def _reject(self, waiting: Waiting, rejection: Rejection) -> None:
        done = partial(self._settled, waiting)
        self._rejecter.add(Rejected.of(self.stream, waiting.record, rejection, waiting.partition, done))

    def _finish(self, partition: Partition, offset: int) -> None:
        assert partition.tracker is not None
        partition.tracker.done(offset)

    def _refuse(self, error: kafka.KafkaError | None) -> None:
        self._steering.refused = error

    def _freed(self) -> None:
        self._dispatch.pump()
        if self._steering.paused:
            self._steering.steer()

    async def _look(self) -> None:
        while True:
            self._steering.look()
            self._show_metrics()
            await asyncio.sleep(STEER_SECONDS)

    async def _commit(self) -> None:
        """Every second, moved or not: an accepted commit is what holds the assignment."""
        while True:
            if recorded := self._partitions.recorded:
                self._member.commit(recorded)
            await asyncio.sleep(COMMIT_SECONDS)

    def _show_metrics(self) -> None:
        labels = (self.stream.namespace, self.stream.name)
        metrics.LAG.labels(*labels).set(sum(p.lag or 0 for p in self._partitions.known))
        metrics.SLOTS.labels(*labels).set(self._dispatch.slots.taken)
        metrics.READ_AHEAD.labels(*labels).set(self._steering.memory)
        metrics.WAITING_USERS.labels(*labels).set(len(self._dispatch.lanes))
        metrics.BACKLOG_USERS.labels(*labels).set(len(self._overflow))
        metrics.BACKLOG_RECORDS.labels(*labels).set(self._overflow.records)
