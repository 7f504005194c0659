"""One topic consumed by one group member: assignment, start, records, positions; until one of them changes for good.

The order is the guarantee: LIST, status entry and commit before the first create; a record's topic id checked before
the record is used; `position` in the status before the commit that mirrors it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from controller import kafka, logs
from controller.bridge import metrics, positions
from controller.bridge.dispatch import Dispatch
from controller.bridge.lanes import Waiting
from controller.bridge.partitions import Partition, Partitions
from controller.bridge.rejecting import Rejected, Rejecter
from controller.bridge.reporting import Consuming, Reporter
from controller.bridge.tracker import Tracker
from controller.bridge.unfinished import Unfinished
from controller.cluster import Cluster
from controller.errors import ApiError, NotFound
from controller.events import Record, Rejection, read_record
from controller.streams import UpdateStream
from controller.streamstatus import StreamStatus

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

#: The topic is looked at so often, and before each batch of records.
TOPIC_SECONDS = 2.0
#: At most so often, however many batches come.
LOOK_SECONDS = 0.02
COMMIT_SECONDS = 1.0
LAG_SECONDS = 5.0
RETRY_SECONDS = 0.5
#: Times in a row that the topic must be missing: brokers learn of a new topic one after the other.
MISSING_TIMES = 2
#: Memory for records that wait: with librdkafka's queue, what is on its way and what is read again, under 32 MiB.
HIGH_WATER = 18 << 20
LOW_WATER = 12 << 20
#: With no free slot for so long the partitions pause, whatever memory there is.
STARVING_SECONDS = 1.0


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


class Consumption:
    """Begun when it is made; `run` lasts until Over, KafkaError, NotFound (the stream is gone) or WentBack ends it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._topic = context.topic
        self._partitions = Partitions()
        self._rejecter = Rejecter(context.cluster, context.stream, self._partitions)
        self._dispatch = Dispatch(
            context.cluster, context.stream, self._partitions, settled=self._settled, reject=self._reject
        )
        self._unfinished = Unfinished(
            context.cluster,
            context.stream.namespace,
            context.stream.name,
            self._dispatch.slots,
            self._dispatch.links,
            self._freed,
        )
        self._member = kafka.GroupMember(
            context.config, self._topic, context.stream.kafka.group_id, context.instance, self._on_event
        )
        self._reporter = Reporter(context.status, self._topic, self._partitions, self._condition, lambda: 0)
        self._fetched: list[tuple[Partition, Record | kafka.Reached]] = []
        self._arrived = asyncio.Event()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused = False
        self._missing = 0
        self._broker_error: kafka.KafkaError | None = None

    @property
    def stream(self) -> UpdateStream:
        return self._dispatch.stream

    def change(self, stream: UpdateStream) -> None:
        """A new spec that needs no new consumer: limits and suspensions act at once."""
        self._dispatch.stream = stream
        self._dispatch.slots.limit(stream.limits)
        self._steer()
        self._dispatch.pump()

    async def run(self) -> None:
        for work in (
            self._rejecter.run(),
            self._check_topic(),
            self._reporter.run(),
            self._commit(),
            self._measure(),
            self._watch_slots(),
        ):
            self._spawn(work)
        try:
            await self._ended
        finally:
            await self._close()

    async def _close(self) -> None:
        """Stop reading; what is being created is acknowledged before the partitions are let go."""
        self._dispatch.halted = True
        await self._member.close()
        self._dispatch.stop()
        self._unfinished.stop()
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
            case kafka.Assigned(numbers):
                self._spawn(self._take_up(self._partitions.assign(numbers)))
            case kafka.Revoked(numbers, released):
                self._spawn(self._let_go(self._partitions.revoke(numbers), released))
            case kafka.Fetched(items):
                self._fetched += [(p, item) for item in items if (p := self._partitions.get(item.partition))]
                self._arrived.set()
            case kafka.Committed(offsets, sent):
                self._partitions.committed(offsets, sent)
            case kafka.OutOfRange(number):
                if partition := self._partitions.get(number):
                    self._spawn(self._find_range(partition))
            case kafka.Failed(reason, message):
                self._end(kafka.KafkaError(reason, message))

    async def _take_up(self, fresh: list[Partition]) -> None:
        """Begin to read newly assigned partitions."""
        logger.info("Partitions assigned", extra=self._fields(partitions=[p.number for p in fresh]))
        starts = await self._insist(lambda: self._prepare(fresh))
        fresh = [partition for partition in fresh if not partition.revoked]
        for partition in fresh:
            self._begin(partition, starts[partition.number])
        await self._reporter.write()
        begun = {p.number: starts[p.number].offset for p in fresh if not p.revoked}
        self._dispatch.alone = len(self._partitions) == self._topic.partitions
        self._member.commit(self._recorded)
        self._member.begin(begun)
        self._steer()

    async def _prepare(self, fresh: list[Partition]) -> dict[int, positions.Start]:
        """What must be known before the first create. Raises ApiError or KafkaError."""
        await self._unfinished.refresh()
        await self._rejecter.refresh()
        numbers = [partition.number for partition in fresh]
        ranges = await self._context.lookup.ranges(numbers)
        status = await self._context.status.read()
        commits = {}
        if positions.needs_commits(status):
            commits = await self._context.lookup.committed(self.stream.kafka.group_id, numbers)
        reset = self.stream.kafka.config.get("auto.offset.reset", "earliest")
        return positions.starts(status, self._topic, ranges, commits, reset)

    def _begin(self, partition: Partition, start: positions.Start) -> None:
        first = start.expired[0] if start.expired else start.offset
        partition.tracker = Tracker(first)
        if start.expired:
            self._expire(partition, *start.expired)

    def _expire(self, partition: Partition, first: int, last: int) -> None:
        """Kafka removed these before they were read: one RejectedEvent for all."""
        assert partition.tracker is not None
        partition.tracker.begin(first)
        partition.tracker.reach(last + 1)
        record = Record(self._topic.name, self._topic.id, partition.number, first, -1, None, None)
        done = lambda: self._finish(partition, first)  # noqa: E731
        self._rejecter.add(Rejected.expired(self.stream, record, last, last - first + 1, partition, done))

    async def _find_range(self, partition: Partition) -> None:
        """Kafka has no record where reading was to go on: it was removed meanwhile, or the log was cut off."""
        there = (await self._insist(lambda: self._context.lookup.ranges([partition.number])))[partition.number]
        if partition.revoked or partition.tracker is None:
            return
        after = partition.tracker.next
        if after < there.low:
            self._expire(partition, after, there.low - 1)
        elif after > there.high:
            logger.warning("The partition ends before its position", extra=self._fields(partition=partition.number))
            await asyncio.sleep(TOPIC_SECONDS)
        self._member.begin({partition.number: max(after, there.low)})

    async def _let_go(self, gone: list[Partition], released: Future[Any]) -> None:
        """Wait for creates in flight, write the last positions, and only then let another replica begin."""
        logger.info("Partitions revoked", extra=self._fields(partitions=[p.number for p in gone]))
        self._dispatch.forget(gone)
        try:
            async with asyncio.timeout(kafka.RELEASE_SECONDS - 0.5):
                await self._partitions.settled(gone)
                await self._reporter.write()
        except (TimeoutError, NotFound, positions.WentBack) as error:
            logger.warning("Partitions let go without their last positions: %r", error)
        self._partitions.left(gone)
        if not released.done():
            released.set_result({p.number: p.recorded for p in gone if p.recorded is not None})
        self._dispatch.alone = False

    async def _check_topic(self) -> None:
        """Admit records once the topic is known to be the same: one made again starts at 0 and goes on from there."""
        while True:
            try:
                await asyncio.wait_for(self._arrived.wait(), TOPIC_SECONDS)
            except TimeoutError:
                pass
            self._arrived.clear()
            fetched, self._fetched = self._fetched, []
            try:
                await self._look_at_topic()
            except kafka.KafkaError as error:
                self._broker_error = error
                self._fetched = fetched + self._fetched
                self._arrived.set()
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._admit(fetched)
                await asyncio.sleep(LOOK_SECONDS)

    async def _look_at_topic(self) -> None:
        """Raises Over when it is another one, or when it stays missing; KafkaError when that is not known."""
        try:
            topic = await self._context.lookup.describe()
        except kafka.KafkaError as error:
            self._missing = self._missing + 1 if error.reason == "TopicMissing" else 0
            if self._missing >= MISSING_TIMES:
                raise Over(str(error)) from error
            raise
        if topic.id != self._topic.id:
            raise Over(f"topic {topic.name} was made again")
        self._missing = 0
        self._broker_error = None
        if topic.partitions != self._topic.partitions:
            self._topic = topic
            self._dispatch.alone = len(self._partitions) == topic.partitions

    def _admit(self, fetched: list[tuple[Partition, Record | kafka.Reached]]) -> None:
        now = time.monotonic()
        for partition, item in fetched:
            if partition.revoked or partition.tracker is None:
                continue
            if isinstance(item, kafka.Reached):
                partition.tracker.reach(item.offset)
            elif partition.tracker.begin(item.offset):
                self._judge(partition, item, now)
        metrics.RECORDS.labels(self.stream.namespace, self.stream.name).inc(len(fetched))
        self._dispatch.pump()
        self._steer()

    def _judge(self, partition: Partition, record: Record, now: float) -> None:
        verdict = read_record(record)
        if isinstance(verdict, Rejection):
            offset = record.offset
            done = lambda: self._finish(partition, offset)  # noqa: E731
            self._rejecter.add(Rejected.of(self.stream, record, verdict, partition, done))
        else:
            self._dispatch.offer(Waiting(verdict.user, record, partition, kafka.record_cost(record), now))

    def _settled(self, waiting: Waiting) -> None:
        self._finish(waiting.partition, waiting.record.offset)

    def _reject(self, waiting: Waiting, rejection: Rejection) -> None:
        done = lambda: self._settled(waiting)  # noqa: E731
        self._rejecter.add(Rejected.of(self.stream, waiting.record, rejection, waiting.partition, done))

    def _finish(self, partition: Partition, offset: int) -> None:
        assert partition.tracker is not None
        partition.tracker.done(offset)
        if self._paused:
            self._steer()

    def _freed(self) -> None:
        self._dispatch.pump()
        if self._paused:
            self._steer()

    def _steer(self) -> None:
        """Pause or resume reading, with hysteresis."""
        self._dispatch.halted = self.stream.suspend.ingest
        limit = LOW_WATER if self._paused else HIGH_WATER
        paused = self._dispatch.halted or self._dispatch.starving(STARVING_SECONDS) or self._memory > limit
        if paused != self._paused:
            self._paused = paused
            (self._member.pause if paused else self._member.resume)()

    @property
    def _memory(self) -> int:
        return self._dispatch.lanes.cost + self._rejecter.cost

    async def _watch_slots(self) -> None:
        """That nothing happens is no event: look."""
        while True:
            self._steer()
            self._show_metrics()
            await asyncio.sleep(RETRY_SECONDS)

    async def _commit(self) -> None:
        """Every second, moved or not: an accepted commit is what holds the assignment."""
        while True:
            if self._recorded:
                self._member.commit(self._recorded)
            await asyncio.sleep(COMMIT_SECONDS)

    @property
    def _recorded(self) -> dict[int, int]:
        """What the status says, of which the commit is the mirror."""
        return {p.number: p.recorded for p in self._partitions if p.recorded is not None}

    async def _measure(self) -> None:
        """The ends of the partitions, for the lag."""
        while True:
            try:
                ends = await self._context.lookup.ranges([p.number for p in self._partitions])
            except kafka.KafkaError as error:
                logger.debug("Lag not measured: %s", error)
            else:
                for partition in self._partitions:
                    if partition.number in ends:
                        partition.high = ends[partition.number].high
            await asyncio.sleep(LAG_SECONDS)

    def _condition(self) -> Consuming | None:
        """None where this replica has no partitions and no trouble: then it is for another one to tell."""
        generation = self.stream.generation
        slots = self._dispatch.slots
        if error := self._broker_error:
            return Consuming(False, error.reason, str(error), generation)
        if self.stream.suspend.ingest:
            return Consuming(False, "Suspended", "spec.suspend.ingest is true", generation)
        if not len(self._partitions):
            return None
        if self._dispatch.starving(STARVING_SECONDS):
            message = f"{slots.taken} updates are unfinished, limits.maxObjects allows no more; users wait for a slot"
            return Consuming(False, "MaxObjectsReached", message, generation)
        if self._dispatch.brake.failing_for() > 2.0:
            return Consuming(False, "CreatesRefused", self._dispatch.brake.last_error[:1000], generation)
        if self._paused:
            return Consuming(False, "BacklogFull", "more records wait than memory and backlogs may hold", generation)
        return Consuming(True, "Consuming", f"reads topic {self._topic.name}", generation)

    async def _insist(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Until it works. Raises NotFound when the stream is gone."""
        while True:
            try:
                return await call()
            except NotFound:
                raise
            except (ApiError, kafka.KafkaError) as error:
                logger.warning("Not begun yet: %s", error, extra=self._fields())
                await asyncio.sleep(RETRY_SECONDS)

    def _show_metrics(self) -> None:
        labels = (self.stream.namespace, self.stream.name)
        metrics.LAG.labels(*labels).set(sum(p.lag or 0 for p in self._partitions.known))
        metrics.SLOTS.labels(*labels).set(self._dispatch.slots.taken)
        metrics.READ_AHEAD.labels(*labels).set(self._memory)
        metrics.WAITING_USERS.labels(*labels).set(len(self._dispatch.lanes))

    def _fields(self, **values: Any) -> dict[str, dict[str, Any]]:
        return logs.fields(stream=f"{self.stream.namespace}/{self.stream.name}", **values)
