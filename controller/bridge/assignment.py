"""Begins to read assigned partitions, releases revoked ones, and reads on where Kafka lacks the next record.

These come before the first create of an assigned partition: a consistent LIST of unfinished updates and of
RejectedEvents, the backlogs of its users, an entry in the stream's status, and a commit that the coordinator accepts.
A revoked partition is given back when its creates are acknowledged and its position is written.
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
from controller.bridge.backlogs import BACKLOG_UNREADABLE, Backlogs
from controller.bridge.context import ConsumerContext
from controller.bridge.partitions import OffsetTracker, Partition
from controller.bridge.pending import PartitionOffset
from controller.bridge.rejected_events import UNREAD, RejectedEvents
from controller.bridge.stream_report import StreamReporter
from controller.bridge.working_set_reflector import WorkingSetReflector
from controller.clients.event_recorder import reference
from controller.core.records import Record
from controller.errors import ApiError, NotFound

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

#: Seconds until what was refused is tried again.
RETRY_SECONDS = 0.5
#: The same where a person has to mend a backlog: each try lists all backlogs.
UNREADABLE_SECONDS = 3.0
#: The same where a partition has no leader.
UNANSWERED_SECONDS = 2.0
#: The same where a partition ends before its position.
CUT_OFF_SECONDS = 2.0
#: Attempts to write an Event: for about a minute.
EVENT_ATTEMPTS = 12


class Assignment:
    """Acts on what the coordinator assigns to this replica, and revokes."""

    def __init__(
        self,
        context: ConsumerContext,
        member: kafka.GroupMember,
        reflector: WorkingSetReflector,
        rejected_events: RejectedEvents,
        backlogs: Backlogs,
        reporter: StreamReporter,
    ) -> None:
        self._context = context
        self._topic = context.topic
        self._lookup = context.lookup
        self._status = context.status
        self._partitions = context.partitions
        self._errors = context.partition_errors
        self._member = member
        self._reflector = reflector
        self._rejected_events = rejected_events
        self._backlogs = backlogs
        self._reporter = reporter

    async def assigned(self, partitions: list[Partition]) -> None:
        """Begin to read partitions. Raises NotFound when the stream is gone.

        A partition that does not answer begins later, and the others do not wait for it. One LIST after the assignment
        is enough, however long that takes: what other replicas have created for these partitions was acknowledged
        before the assignment, and nobody else creates for them since.
        """
        logger.info("Partitions assigned", extra=self._fields(partitions))
        await self._retry(partial(self._check_room, partitions))
        await self._retry(self._list)
        while partitions := [partition for partition in partitions if not partition.revoked]:
            starts = await self._retry(partial(self._starts, partitions))
            answering = [partition for partition in partitions if partition.number in starts]
            if answering:
                await self._retry(partial(self._load_backlogs, answering))
                await self._begin([partition for partition in answering if not partition.revoked], starts)
            partitions = [partition for partition in partitions if partition.number not in starts]
            if partitions:
                await asyncio.sleep(UNANSWERED_SECONDS)

    async def revoked(self, partitions: list[Partition], released: Future[Any]) -> None:
        """Write the last positions, and release the partitions: another replica may begin with the result."""
        logger.info("Partitions revoked", extra=self._fields(partitions))
        try:
            async with asyncio.timeout(kafka.RELEASE_SECONDS - 0.5):
                await self._partitions.creates_ended(partitions)
                await self._backlogs.writes_ended()
                await self._reporter.write()
        except NotFound:
            logger.info("Partitions let go: their stream was deleted", extra=self._fields(partitions))
        except (TimeoutError, ApiError, positions.Outdated) as error:
            logger.warning("Partitions let go without their last positions: %r", error, extra=self._fields(partitions))
        self._partitions.released(partitions)
        if not released.done():
            released.set_result({p.number: p.recorded for p in partitions if p.recorded is not None})

    async def offset_out_of_range(self, partition: Partition) -> None:
        """Kafka does not have the next record of a partition: it was removed, or the log was cut off. Read on."""
        there = await self._range_with_position(partition)
        if there is None or partition.tracker is None:
            return
        after = partition.tracker.next
        if after < there.low:
            self._reject_removed(partition, after, there.low - 1)
        self._member.fetch_from({(partition.number, partition.serial): max(after, there.low)})

    async def _begin(self, partitions: list[Partition], starts: Mapping[int, positions.Start]) -> None:
        for partition in partitions:
            start = starts[partition.number]
            partition.tracker = OffsetTracker(start.expired[0] if start.expired else start.offset)
            if start.expired:
                self._reject_removed(partition, *start.expired)
        await self._retry(self._reporter.write)
        for partition in partitions:
            partition.committing_since = time.monotonic()
        self._member.commit(self._partitions.recorded)
        self._member.fetch_from({(p.number, p.serial): starts[p.number].offset for p in partitions if not p.revoked})

    async def _check_room(self, assigned: Iterable[Partition]) -> None:
        """Raises ApiError, or KafkaError where the status cannot hold all partitions that the topic is seen to have."""
        partitions = max(self._topic.partitions, *(partition.number + 1 for partition in assigned))
        positions.check_room(await self._status.read(), replace(self._topic, partitions=partitions))

    async def _list(self) -> None:
        """Read what must be known before the first create. Raises ApiError."""
        await self._reflector.refresh()
        await self._rejected_events.refresh()

    async def _load_backlogs(self, partitions: Iterable[Partition]) -> None:
        """Raises ApiError, or KafkaError: BACKLOG_UNREADABLE, or what the brokers refuse."""
        await self._backlogs.load([partition for partition in partitions if not partition.revoked])

    async def _starts(self, partitions: Iterable[Partition]) -> dict[int, positions.Start]:
        """Find where to begin with each partition that answers. Raises ApiError or KafkaError.

        A partition that was revoked meanwhile is left out: it may never answer.
        """
        numbers = [partition.number for partition in partitions if not partition.revoked]
        if not numbers:
            return {}
        status = await self._status.read()
        begun = not positions.needs_commits(status)
        if not begun:
            status = await self._first_positions(max(numbers))
        watermarks = await self._lookup.watermarks(numbers)
        if begun and watermarks:
            await self._report_moved_offsets(status, watermarks)
        return positions.starts(status, self._topic, watermarks, {}, _reset(self._context.stream))

    async def _first_positions(self, highest: int) -> dict[str, Any]:
        """Write the first positions of a stream: those of all partitions at once, other replicas' too.

        All are written, or none. A partition that was left out because it has no leader could not begin at its commit
        later, as commits do not count once there are entries. It would begin at its first offset.
        """
        stream = self._context.stream
        topic = await self._lookup.describe()
        numbers = range(max(topic.partitions, highest + 1))
        commits = await self._lookup.committed(stream.kafka.group_id, numbers)
        # A partition beyond the topic's last one, as of an earlier topic of its name, has no commit and never answers.
        watermarks = await self._lookup.all_watermarks(n for n in numbers if n < topic.partitions or n in commits)
        starts = positions.starts({}, self._topic, watermarks, commits, _reset(stream))
        entries = positions.first_entries(self._topic, starts)
        return await self._status.apply(lambda status: positions.with_first_entries(status, self._topic.id, entries))

    async def _report_moved_offsets(self, status: Mapping[str, Any], numbers: Iterable[int]) -> None:
        """Write an Event where somebody has set the group's offsets: they do not count, and are overwritten."""
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
                f" positions do: {where}. To read records again apply another UpdateStream: see Replay, docs/backup.md"
            )
            logger.warning("%s", note, extra=self._fields(()))
            regarding = reference("UpdateStream", stream.namespace, stream.name, stream.uid)
            self._context.recorder.event(
                regarding, "Warning", "OffsetsIgnored", "Consuming", note, attempts=EVENT_ATTEMPTS
            )

    async def _range_with_position(self, partition: Partition) -> kafka.Watermarks | None:
        """The partition's watermarks, once it does not end before the position; None when it was revoked."""
        try:
            while (there := await self._retry(partial(self._range, partition))) is not None:
                after = partition.tracker.next if partition.tracker is not None else 0
                if after <= there.high:
                    break
                message = (
                    f"partition {partition.number} ends at {there.high}, before its position {after}: its log was cut"
                    " off; it goes on when there is a record at that position"
                )
                self._errors[partition] = kafka.KafkaError("PositionBeyondEnd", message)
                await asyncio.sleep(CUT_OFF_SECONDS)
            return there
        finally:
            self._errors.pop(partition, None)

    async def _range(self, partition: Partition) -> kafka.Watermarks | None:
        """The partition's watermarks; None when it was revoked. Raises KafkaError."""
        if partition.revoked:
            return None
        return (await self._lookup.all_watermarks([partition.number]))[partition.number]

    def _reject_removed(self, partition: Partition, first: int, last: int) -> None:
        """Write one RejectedEvent for all of these records, which Kafka removed before they were read."""
        tracker = partition.tracker
        assert tracker is not None
        tracker.begin(first)
        tracker.reach(last + 1)
        record = Record(self._topic.name, self._topic.id, partition.number, first, -1, None, None)
        self._rejected_events.expire(record, last, last - first + 1, UNREAD, PartitionOffset(partition, first))

    async def _retry(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Call it until it succeeds; meanwhile the condition says why it does not. Raises NotFound without a stream."""
        logged = ""
        while True:
            try:
                answer = await call()
            except NotFound:
                raise
            except (ApiError, kafka.KafkaError) as error:
                self._report(call, error)
                if logged != str(error):
                    logged = str(error)
                    logger.warning("Not begun yet: %s", error, extra=self._fields(()))
                unreadable = isinstance(error, kafka.KafkaError) and error.reason == BACKLOG_UNREADABLE
                await asyncio.sleep(UNREADABLE_SECONDS if unreadable else RETRY_SECONDS)
            else:
                self._errors.pop(call, None)
                self._context.start_error = None
                return answer

    def _report(self, call: object, error: ApiError | kafka.KafkaError) -> None:
        """Say in the condition why partitions are not begun."""
        if isinstance(error, ApiError):
            message = f"nothing is created before this is read: {error}"
            self._context.start_error = kafka.KafkaError("CreatesRefused", message)
        elif error.reason in (BACKLOG_UNREADABLE, kafka.LEADERLESS):
            self._errors[call] = error
            self._context.start_error = None  # the brokers do answer
        else:
            self._context.start_error = error

    def _fields(self, partitions: Iterable[Partition]) -> dict[str, dict[str, Any]]:
        numbers = [partition.number for partition in partitions]
        return logs.fields(stream=self._context.stream.namespaced_name, **({"partitions": numbers} if numbers else {}))


def _reset(stream: UpdateStream) -> str:
    return stream.kafka.config.get("auto.offset.reset", "earliest")
