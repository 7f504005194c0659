"""Partitions taken up and let go, and what Kafka removed before it was read.

Before the first create: a consistent LIST of unfinished updates, backlogs and folded rejections; the entry in the
status; a commit that the coordinator accepts. Before a partition goes: its creates acknowledged, its position written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from controller import kafka, logs
from controller.bridge import positions
from controller.bridge.backlogwriting import UNREADABLE, BacklogWriter, Gone
from controller.bridge.dispatch import Dispatch
from controller.bridge.overflow import Overflow
from controller.bridge.partitions import Partition, Partitions
from controller.bridge.rejecting import Rejected, Rejecter
from controller.bridge.reporting import Reporter
from controller.bridge.tracker import Tracker
from controller.bridge.unfinished import Unfinished
from controller.errors import ApiError, NotFound
from controller.events import Record
from controller.streams import UpdateStream
from controller.streamstatus import StreamStatus

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

RETRY_SECONDS = 0.5
#: A partition without a leader is asked again so often.
UNANSWERED_SECONDS = 2.0
#: A partition that ends before its position is looked at again so often.
CUT_OFF_SECONDS = 2.0


class Assignment:
    def __init__(
        self,
        topic: kafka.Topic,
        lookup: kafka.TopicLookup,
        status: StreamStatus,
        partitions: Partitions,
        dispatch: Dispatch,
        overflow: Overflow,
        unfinished: Unfinished,
        rejecter: Rejecter,
        writer: BacklogWriter,
        reporter: Reporter,
        member: kafka.GroupMember,
        refused: Callable[[kafka.KafkaError | None], None],
    ) -> None:
        self._topic = topic
        self._lookup = lookup
        self._status = status
        self._partitions = partitions
        self._dispatch = dispatch
        self._overflow = overflow
        self._unfinished = unfinished
        self._rejecter = rejecter
        self._writer = writer
        self._reporter = reporter
        self._member = member
        #: Told what keeps partitions from being begun, and that nothing does.
        self._refused = refused

    async def take_up(self, fresh: list[Partition]) -> None:
        """Begin to read newly assigned partitions. Raises NotFound when the stream is gone, KafkaError for good.

        A partition that does not answer is taken up later; the others do not wait for it.
        """
        logger.info("Partitions assigned", extra=self._fields(fresh))
        while fresh := [partition for partition in fresh if not partition.revoked]:
            starts = await self._insist(partial(self._prepare, fresh))
            ready = [partition for partition in fresh if partition.number in starts]
            await self._insist(partial(self._adopt_backlogs, ready))
            await self._begin([partition for partition in ready if not partition.revoked], starts)
            fresh = [partition for partition in fresh if partition.number not in starts]
            if fresh:
                logger.warning("Partitions do not answer", extra=self._fields(fresh))
                await asyncio.sleep(UNANSWERED_SECONDS)

    async def _begin(self, ready: list[Partition], starts: Mapping[int, positions.Start]) -> None:
        for partition in ready:
            start = starts[partition.number]
            partition.tracker = Tracker(start.expired[0] if start.expired else start.offset)
            if start.expired:
                self._expire(partition, *start.expired)
        await self._reporter.write()
        self._member.commit(self._partitions.recorded)
        self._member.begin({p.number: starts[p.number].offset for p in ready if not p.revoked})

    async def let_go(self, gone: list[Partition], released: Future[Any]) -> None:
        """Another replica may begin when `released` has its result."""
        logger.info("Partitions revoked", extra=self._fields(gone))
        try:
            async with asyncio.timeout(kafka.RELEASE_SECONDS - 0.5):
                await self._partitions.settled(gone)
                await self._writer.idle()
                await self._reporter.write()
        except (TimeoutError, NotFound, positions.WentBack) as error:
            logger.warning("Partitions let go without their last positions: %r", error)
        self._partitions.left(gone)
        if not released.done():
            released.set_result({p.number: p.recorded for p in gone if p.recorded is not None})

    async def find_range(self, partition: Partition) -> None:
        """Kafka has no record where reading was to go on: it was removed meanwhile, or the log was cut off."""
        there = (await self._insist(lambda: self._lookup.ranges([partition.number])))[partition.number]
        if partition.revoked or partition.tracker is None:
            return
        after = partition.tracker.next
        if after < there.low:
            self._expire(partition, after, there.low - 1)
        elif after > there.high:
            message = (
                f"partition {partition.number} ends at {there.high}, before its position {after}: its log was cut off;"
                " it goes on when there is a record at that position"
            )
            self._refused(kafka.KafkaError("PositionBeyondEnd", message))
            await asyncio.sleep(CUT_OFF_SECONDS)
        self._member.begin({partition.number: max(after, there.low)})

    async def _prepare(self, fresh: Iterable[Partition]) -> dict[int, positions.Start]:
        """What must be known before the first create. Raises ApiError or KafkaError."""
        await self._unfinished.refresh()
        await self._rejecter.refresh()
        status = await self._status.read()
        if positions.needs_commits(status):
            status = await self._first_positions()
        ranges = await self._lookup.ranges([partition.number for partition in fresh])
        return positions.starts(status, self._topic, ranges, {}, _reset(self._dispatch.stream))

    async def _first_positions(self) -> dict[str, Any]:
        """The stream has no position yet: those of all partitions are written at once, other replicas' too."""
        stream = self._dispatch.stream
        numbers = range(self._topic.partitions)
        ranges = await self._lookup.ranges(numbers)
        commits = await self._lookup.committed(stream.kafka.group_id, numbers)
        begun = positions.starts({}, self._topic, ranges, commits, _reset(stream))
        entries = positions.first_entries(self._topic, begun)
        return await self._status.apply(lambda status: positions.with_first_entries(status, entries))

    async def _adopt_backlogs(self, fresh: list[Partition]) -> None:
        """Raises ApiError. What waits under another id of the topic is gone with it."""
        held = [partition for partition in fresh if not partition.revoked]
        for gone in sorted(await self._writer.refresh(held), key=lambda gone: gone.offsets.first):
            self._rejecter.add(self._gone(gone))

    def _gone(self, gone: Gone) -> Rejected:
        def done() -> None:
            gone.backlog.expiring.remove(gone.partition)

        offsets = gone.offsets
        key = gone.backlog.user.encode()
        first = Record(self._topic.name, gone.topic_id, gone.number, offsets.first, -1, key, None)
        stream = self._dispatch.stream
        return Rejected.expired(stream, first, offsets.last, len(offsets), gone.partition, done)

    def expire_one(self, user: str, partition: Partition, offset: int) -> None:
        """A record of a backlog that Kafka has removed."""
        record = Record(self._topic.name, self._topic.id, partition.number, offset, -1, user.encode(), None)

        def done() -> None:
            self._overflow.take(user, partition, offset)

        self._rejecter.add(Rejected.expired(self._dispatch.stream, record, offset, 1, partition, done))

    def _expire(self, partition: Partition, first: int, last: int) -> None:
        """Kafka removed these before they were read: one RejectedEvent for all."""
        tracker = partition.tracker
        assert tracker is not None
        tracker.begin(first)
        tracker.reach(last + 1)
        record = Record(self._topic.name, self._topic.id, partition.number, first, -1, None, None)

        def done() -> None:
            tracker.done(first)

        self._rejecter.add(Rejected.expired(self._dispatch.stream, record, last, last - first + 1, partition, done))

    async def _insist(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Until it works. Raises NotFound when the stream is gone, KafkaError for what no broker can mend."""
        while True:
            try:
                answer = await call()
            except NotFound:
                raise
            except (ApiError, kafka.KafkaError) as error:
                if isinstance(error, kafka.KafkaError):
                    if error.reason == UNREADABLE:
                        raise
                    self._refused(error)
                logger.warning("Not begun yet: %s", error, extra=self._fields(()))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._refused(None)
                return answer

    def _fields(self, partitions: Iterable[Partition]) -> dict[str, dict[str, Any]]:
        stream = self._dispatch.stream
        return logs.fields(stream=f"{stream.namespace}/{stream.name}", partitions=[p.number for p in partitions])


def _reset(stream: UpdateStream) -> str:
    return stream.kafka.config.get("auto.offset.reset", "earliest")
