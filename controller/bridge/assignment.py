"""Partitions taken up and let go, and what Kafka removed before it was read.

Before the first create: a consistent LIST of unfinished updates, backlogs and folded rejections; the entry in the
status; a commit that the coordinator accepts. Before a partition goes: its creates acknowledged, its position written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from controller import kafka, logs
from controller.api.update_stream import UpdateStream
from controller.bridge import positions
from controller.bridge.backlogs.overflow import Overflow
from controller.bridge.backlogs.reader import UNREADABLE
from controller.bridge.backlogs.writer import BacklogWriter, Gone
from controller.bridge.context import ConsumerContext
from controller.bridge.joining import Joining
from controller.bridge.partitions import Partition
from controller.bridge.rejected_events import TOPIC_GONE, UNREAD, WAITED, Rejected, Rejecter
from controller.bridge.stream_report import Reporter
from controller.bridge.tracker import Tracker
from controller.bridge.unfinished import Unfinished
from controller.clients.event_recorder import reference
from controller.core.records import Record
from controller.errors import ApiError, NotFound

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

RETRY_SECONDS = 0.5
#: What a person has to mend is looked at so often: each time all backlogs are listed.
UNREADABLE_SECONDS = 3.0
#: A partition without a leader is asked again so often.
UNANSWERED_SECONDS = 2.0
#: Attempts to write an Event: for about a minute.
EVENT_ATTEMPTS = 12
#: A partition that ends before its position is looked at again so often.
CUT_OFF_SECONDS = 2.0


class Assignment:
    def __init__(
        self,
        context: ConsumerContext,
        overflow: Overflow,
        unfinished: Unfinished,
        rejecter: Rejecter,
        writer: BacklogWriter,
        reporter: Reporter,
        member: kafka.GroupMember,
        joining: Joining,
    ) -> None:
        self._context = context
        self._topic = context.topic
        self._lookup = context.lookup
        self._status = context.status
        self._partitions = context.partitions
        self._overflow = overflow
        self._unfinished = unfinished
        self._rejecter = rejecter
        self._writer = writer
        self._reporter = reporter
        self._member = member
        #: Why some partitions are not begun, by partition or by the call that fails; the others go on.
        self._troubles = joining.troubles

    async def take_up(self, fresh: list[Partition]) -> None:
        """Begin to read newly assigned partitions. Raises NotFound when the stream is gone.

        A partition that does not answer is taken up later; the others do not wait for it. What others have created for
        these partitions was acknowledged before they were assigned here, and nobody else creates for them since: one
        LIST after the assignment is enough, however long they do not answer.
        """
        logger.info("Partitions assigned", extra=self._fields(fresh))
        await self._insist(partial(self._check_room, fresh))
        await self._insist(self._list)
        while fresh := [partition for partition in fresh if not partition.revoked]:
            starts = await self._insist(partial(self._starts, fresh))
            ready = [partition for partition in fresh if partition.number in starts]
            if ready:
                await self._insist(partial(self._adopt_backlogs, ready))
                await self._begin([partition for partition in ready if not partition.revoked], starts)
            fresh = [partition for partition in fresh if partition.number not in starts]
            if fresh:
                await asyncio.sleep(UNANSWERED_SECONDS)

    async def _begin(self, ready: list[Partition], starts: Mapping[int, positions.Start]) -> None:
        for partition in ready:
            start = starts[partition.number]
            partition.tracker = Tracker(start.expired[0] if start.expired else start.offset)
            if start.expired:
                self._expire(partition, *start.expired)
        await self._insist(self._reporter.write)
        for partition in ready:
            partition.committing_since = time.monotonic()
        self._member.commit(self._partitions.recorded)
        self._member.fetch_from({(p.number, p.serial): starts[p.number].offset for p in ready if not p.revoked})

    async def let_go(self, gone: list[Partition], released: Future[Any]) -> None:
        """Another replica may begin when `released` has its result."""
        logger.info("Partitions revoked", extra=self._fields(gone))
        try:
            async with asyncio.timeout(kafka.RELEASE_SECONDS - 0.5):
                await self._partitions.settled(gone)
                await self._writer.idle()
                await self._reporter.write()
        except NotFound:
            logger.info("Partitions let go: their stream was deleted", extra=self._fields(gone))
        except (TimeoutError, ApiError, positions.Outdated) as error:
            logger.warning("Partitions let go without their last positions: %r", error, extra=self._fields(gone))
        self._partitions.left(gone)
        if not released.done():
            released.set_result({p.number: p.recorded for p in gone if p.recorded is not None})

    async def find_range(self, partition: Partition) -> None:
        """Kafka has no record where reading was to go on: it was removed meanwhile, or the log was cut off."""
        there = await self._containing(partition)
        if there is None or partition.tracker is None:
            return
        after = partition.tracker.next
        if after < there.low:
            self._expire(partition, after, there.low - 1)
        self._member.fetch_from({(partition.number, partition.serial): max(after, there.low)})

    async def _check_room(self, fresh: Iterable[Partition]) -> None:
        """Raises ApiError, or KafkaError where the status cannot hold all partitions that the topic is seen to have."""
        partitions = max(self._topic.partitions, *(partition.number + 1 for partition in fresh))
        positions.check_room(await self._status.read(), replace(self._topic, partitions=partitions))

    async def _containing(self, partition: Partition) -> kafka.Watermarks | None:
        """What is there, once it does not end before the position. None: the partition is another's now."""
        try:
            while (there := await self._insist(partial(self._range, partition))) is not None:
                after = partition.tracker.next if partition.tracker is not None else 0
                if after <= there.high:
                    break
                message = (
                    f"partition {partition.number} ends at {there.high}, before its position {after}: its log was cut"
                    " off; it goes on when there is a record at that position"
                )
                self._troubles[partition] = kafka.KafkaError("PositionBeyondEnd", message)
                await asyncio.sleep(CUT_OFF_SECONDS)
            return there
        finally:
            self._troubles.pop(partition, None)

    async def _range(self, partition: Partition) -> kafka.Watermarks | None:
        """None: it is another's now. Raises KafkaError."""
        if partition.revoked:
            return None
        return (await self._lookup.all_watermarks([partition.number]))[partition.number]

    async def _list(self) -> None:
        """What must be known before the first create. Raises ApiError."""
        await self._unfinished.refresh()
        await self._rejecter.refresh()

    async def _starts(self, fresh: Iterable[Partition]) -> dict[int, positions.Start]:
        """Where to begin with those that answer. Raises ApiError or KafkaError.

        Who asks until this works need not wait for what has been revoked meanwhile: it may never answer.
        """
        numbers = [partition.number for partition in fresh if not partition.revoked]
        if not numbers:
            return {}
        status = await self._status.read()
        begun = not positions.needs_commits(status)
        if not begun:
            status = await self._first_positions(max(numbers))
        ranges = await self._lookup.watermarks(numbers)
        if begun and ranges:
            await self._report_moved_offsets(status, ranges)
        return positions.starts(status, self._topic, ranges, {}, _reset(self._context.stream))

    async def _report_moved_offsets(self, status: Mapping[str, Any], numbers: Iterable[int]) -> None:
        """Write an Event where somebody has set the group's offsets: these do not count, and are overwritten."""
        stream = self._context.stream
        group = stream.kafka.group_id
        try:
            moved = positions.moved(status, self._topic, await self._lookup.committed(group, numbers))
        except kafka.KafkaError as error:
            logger.warning("Group's offsets not looked at: %s", error, extra=self._fields(()))
            return
        if moved:
            where = "; ".join(moved)
            note = (
                f"offsets of group {group} are not those that this stream has committed, and do not count; its"
                f" positions do: {where}. To read records again apply another UpdateStream; see Replay in the README"
            )
            logger.warning("%s", note, extra=self._fields(()))
            regarding = reference("UpdateStream", stream.namespace, stream.name, stream.uid)
            self._context.recorder.event(
                regarding, "Warning", "OffsetsIgnored", "Consuming", note, attempts=EVENT_ATTEMPTS
            )

    async def _first_positions(self, highest: int) -> dict[str, Any]:
        """The stream has no position yet: those of all partitions are written at once, other replicas' too.

        All, or none: of a partition that is left out, since it has no leader just now, the commit would count no more
        once the others have entries; it would begin anew, or with `latest` behind records that were never read.
        """
        stream = self._context.stream
        topic = await self._lookup.describe()
        numbers = range(max(topic.partitions, highest + 1))
        commits = await self._lookup.committed(stream.kafka.group_id, numbers)
        # One beyond the topic's end, as of an earlier topic of its name, has no commit, and will never answer.
        ranges = await self._lookup.all_watermarks(n for n in numbers if n < topic.partitions or n in commits)
        begun = positions.starts({}, self._topic, ranges, commits, _reset(stream))
        entries = positions.first_entries(self._topic, begun)
        return await self._status.apply(lambda status: positions.with_first_entries(status, self._topic.id, entries))

    async def _adopt_backlogs(self, fresh: list[Partition]) -> None:
        """Raises ApiError. What waits under another id of the topic is gone with it."""
        held = [partition for partition in fresh if not partition.revoked]
        for gone in sorted(await self._writer.refresh(held), key=lambda gone: gone.offsets.first):
            self._rejecter.add(self._gone(gone))

    def _gone(self, gone: Gone) -> Rejected:
        def done() -> None:
            gone.backlog.shown(gone.partition)

        offsets = gone.offsets
        key = gone.backlog.user.encode()
        first = Record(self._topic.name, gone.topic_id, gone.number, offsets.first, -1, key, None)
        stream = self._context.stream
        return Rejected.expired(stream, first, offsets.last, len(offsets), TOPIC_GONE, gone.partition, done)

    def expire_one(self, user: str, partition: Partition, offset: int) -> None:
        """A record of a backlog that Kafka has removed."""
        record = Record(self._topic.name, self._topic.id, partition.number, offset, -1, user.encode(), None)

        def done() -> None:
            self._overflow.take(user, partition, offset)

        self._rejecter.add(Rejected.expired(self._context.stream, record, offset, 1, WAITED, partition, done))

    def _expire(self, partition: Partition, first: int, last: int) -> None:
        """Kafka removed these before they were read: one RejectedEvent for all."""
        tracker = partition.tracker
        assert tracker is not None
        tracker.begin(first)
        tracker.reach(last + 1)
        record = Record(self._topic.name, self._topic.id, partition.number, first, -1, None, None)

        def done() -> None:
            tracker.done(first)

        stream, count = self._context.stream, last - first + 1
        self._rejecter.add(Rejected.expired(stream, record, last, count, UNREAD, partition, done))

    async def _insist(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Until it works. Raises NotFound when the stream is gone."""
        said = ""
        while True:
            try:
                answer = await call()
            except NotFound:
                raise
            except (ApiError, kafka.KafkaError) as error:
                self._report(call, error)
                if said != str(error):
                    said = str(error)
                    logger.warning("Not begun yet: %s", error, extra=self._fields(()))
                unreadable = isinstance(error, kafka.KafkaError) and error.reason == UNREADABLE
                await asyncio.sleep(UNREADABLE_SECONDS if unreadable else RETRY_SECONDS)
            else:
                self._troubles.pop(call, None)
                self._context.start_error = None
                return answer

    def _report(self, call: object, error: ApiError | kafka.KafkaError) -> None:
        """Say in the condition why partitions are not begun."""
        if isinstance(error, ApiError):
            message = f"nothing is created before this is read: {error}"
            self._context.start_error = kafka.KafkaError("CreatesRefused", message)
        elif error.reason in (UNREADABLE, kafka.LEADERLESS):
            self._troubles[call] = error
            self._context.start_error = None  # the brokers do answer
        else:
            self._context.start_error = error

    def _fields(self, partitions: Iterable[Partition]) -> dict[str, dict[str, Any]]:
        stream = self._context.stream
        numbers = [partition.number for partition in partitions]
        return logs.fields(stream=stream.namespaced_name, **({"partitions": numbers} if numbers else {}))


def _reset(stream: UpdateStream) -> str:
    return stream.kafka.config.get("auto.offset.reset", "earliest")
