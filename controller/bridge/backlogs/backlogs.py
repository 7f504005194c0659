"""The backlogs of one stream, as the rest of the bridge sees them.

A record goes from memory into its user's backlog when memory is full or when it holds up a position; every further
record of that user goes behind it. It is fetched from Kafka again as its user gets room, and leaves the backlog when
its UserUpdate or RejectedEvent is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable
from typing import Any

from controller.bridge import metrics
from controller.bridge.backlogs.cache import BacklogCache, BacklogOffset
from controller.bridge.backlogs.loader import BacklogLoader, DeletedTopicEntry
from controller.bridge.backlogs.writer import BacklogWriter
from controller.bridge.context import ConsumerContext
from controller.bridge.dispatch import Dispatcher
from controller.bridge.partitions import Partition
from controller.bridge.pending import PendingRecord
from controller.bridge.rejected_events import TOPIC_GONE, WAITED, RejectedEvents, RejectedRecord
from controller.core.records import Record, Rejection, read_record
from controller.kafka import Fetcher, FetchResult, KafkaError

logger = logging.getLogger(__name__)

#: Seconds between looks for records that there is room to fetch.
LOOK_SECONDS = 0.05
#: The same while there is no backlog, as in most streams: a hundred streams would wake up two thousand times a second.
IDLE_SECONDS = 0.5
#: The same after the brokers have refused to fetch records.
RETRY_SECONDS = 1.0
#: Bytes of memory for records that were fetched again.
MAX_FETCHED = 6 << 20
#: Seconds after which a position that has not moved is stuck, and so is a user none of whose records is done.
STUCK_SECONDS = 8.0
#: Users whose records are moved into backlogs at a time, where a position is stuck.
MOVED_AT_ONCE = 50


class Backlogs:
    """All backlogs of one stream, as far as its partitions are assigned to this replica."""

    def __init__(
        self, context: ConsumerContext, fetcher: Fetcher, dispatcher: Dispatcher, rejected_events: RejectedEvents
    ) -> None:
        self._context = context
        self._dispatcher = dispatcher
        self._rejected_events = rejected_events
        self._fetcher = fetcher
        self._cache = BacklogCache()
        self._writer = BacklogWriter(context, self._cache)
        self._loader = BacklogLoader(context, self._cache, self._writer, fetcher)
        #: The position of each partition, and since when it has not moved, by the monotonic clock.
        self._positions: dict[Partition, tuple[int, float]] = {}

    def __contains__(self, user: str) -> bool:
        """Whether the user has a backlog: then every new record of theirs goes behind it, by `append`."""
        return user in self._cache

    def __len__(self) -> int:
        """Users with a backlog."""
        return len(self._cache)

    @property
    def records(self) -> int:
        """Records that the backlogs list."""
        return self._cache.records

    @property
    def full(self) -> bool:
        """Some user has more records waiting than a backlog holds."""
        return self._cache.full

    @property
    def unwritten(self) -> int:
        """Offsets that no UserBacklog in the API server lists yet."""
        return self._cache.unwritten

    def background(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """The coroutines that are to run until the consumer ends, for writes and fetches. Raise TopicChanged."""
        return self._writer.run(), self._fetch()

    def stop(self) -> None:
        """Cancel the writes that are under way, and end the fetcher."""
        self._writer.stop()
        self._fetcher.close()

    # Records

    def append(self, user: str, partition: Partition, offset: int) -> bool:
        """Put a record behind the user's backlog, which is begun if there is none.

        False where a UserUpdate is to be created at once: the record was read again after a restart, and lies before
        the whole backlog.
        """
        return self._cache.append(user, partition, offset)

    # Partitions

    async def load(self, assigned: Iterable[Partition]) -> None:
        """Load what waits in newly assigned partitions. To be called before their first create.

        Records of a deleted topic become RejectedEvents. Raises ApiError, or KafkaError: BACKLOG_UNREADABLE, or what
        the brokers refuse.
        """
        for entry in sorted(await self._loader.load(assigned), key=lambda entry: entry.offsets.first):
            self._reject_entry(entry)

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """These partitions are another replica's now."""
        self._cache.revoke(partitions)

    async def writes_ended(self) -> None:
        """Wait for the writes that are under way, which may have entries of revoked partitions."""
        await self._writer.writes_ended()

    # Memory

    def make_room(self, wanted: int, now: float) -> None:
        """Free so many bytes of memory: move the users with the most waiting into backlogs."""
        pending = self._dispatcher.pending
        idle = [user for _, user in self._dispatcher.idle(now)]
        by_cost = sorted(
            ((sum(record.cost for record in pending.get(user) or ()), user) for user in idle), reverse=True
        )
        for cost, user in by_cost:
            if wanted <= 0:
                return
            wanted -= cost if self._move(user, now) else 0

    def release_positions(self, now: float) -> None:
        """If a position is stuck, move the users that are stuck too into backlogs, from the lowest offset on."""
        if not self._position_stuck(now):
            return
        pending = self._dispatcher.pending
        stuck = [user for seconds, user in self._dispatcher.idle(now) if seconds >= STUCK_SECONDS]
        moved = 0
        for user in sorted(stuck, key=lambda user: next(iter(pending.get(user) or ())).offset):
            if moved >= MOVED_AT_ONCE:
                return
            moved += self._move(user, now)

    def ignore(self, seconds: float) -> None:
        """Do not count the last seconds: an outage has held up every position."""
        self._positions = {p: (position, since + seconds) for p, (position, since) in self._positions.items()}

    def _move(self, label: str, now: float) -> bool:
        """Move the records of the users of that label into backlogs, except those that were fetched from a backlog."""
        queue = self._dispatcher.pending.get(label)
        users = {record.user for record in queue or () if not record.origin.from_backlog}
        new = sum(user not in self._cache for user in users)
        if not users or new > self._backlogs_left or (new and not self._writer.may_begin(now)):
            return False
        for record in self._dispatcher.take_back(label):
            if self.append(record.user, record.partition, record.offset):
                record.free()
            else:
                self._dispatcher.offer(record)
        return True

    @property
    def _backlogs_left(self) -> int:
        """How many backlogs may still be begun. Those of other replicas count too, as the API server shows them."""
        there = max(len(self._cache), self._context.counts.overflowing or 0)
        return self._context.stream.limits.max_objects - there

    def _position_stuck(self, now: float) -> bool:
        """Some position has records in hand and has not moved."""
        old, self._positions = self._positions, {}
        stuck = False
        for partition in self._context.partitions.known:
            position, since = old.get(partition, (-1, now))
            if position != partition.position:
                position, since = partition.position, now
            self._positions[partition] = position, since
            assert partition.tracker is not None
            stuck |= bool(partition.tracker.outstanding) and now - since >= STUCK_SECONDS
        return stuck

    # Fetching again

    async def _fetch(self) -> None:
        """Fetch records as there is room: per partition in the order of their offsets, for all users at once.

        Raises TopicChanged.
        """
        while True:
            for partition in self._context.partitions:
                room = MAX_FETCHED * self._context.memory_share - self._context.read_ahead.reread
                if partition.answers and room > 0 and (users := self._next_offsets(partition)):
                    await self._fetch_records(partition, users, int(room))
            if not len(self._cache):
                self._fetcher.close_if_idle()
            await asyncio.sleep(LOOK_SECONDS if len(self._cache) else IDLE_SECONDS)

    def _next_offsets(self, partition: Partition) -> dict[int, str]:
        """The offsets to fetch, and their users.

        While the context has `position_held`: those below the position, which add nothing above it, and the record at
        the position. That may be what holds it: where its user's backlog cannot be written, nothing else moves it.
        """
        below = partition.position + 1 if partition.tracker is not None and self._context.position_held else None
        return self._cache.next_offsets(partition, below)

    async def _fetch_records(self, partition: Partition, users: dict[int, str], room: int) -> None:
        try:
            result = await self._fetcher.fetch(partition.number, list(users), room)
            # A topic that was made again has records of other users at these offsets.
            await self._context.verify_topic()
        except KafkaError as error:
            logger.warning("Backlogs not read: %s", error)
            result = FetchResult()
            await asyncio.sleep(RETRY_SECONDS)
        if partition.revoked:
            return
        now = time.monotonic()
        for record in result.records:
            self._offer(record, BacklogOffset(self._cache, users.pop(record.offset), partition, record.offset), now)
        self._dispatcher.pump()
        for offset in result.missing:
            self._reject_missing(BacklogOffset(self._cache, users.pop(offset), partition, offset))
        self._cache.not_fetched(users, partition)

    def _offer(self, record: Record, origin: BacklogOffset, now: float) -> None:
        event = read_record(record, from_backlog=True)
        if isinstance(event, Rejection):  # another version of the bridge, or a person, has put it into the backlog
            metrics.CREATES.labels(*self._context.stream_labels, "unusable").inc()
            self._rejected_events.add(RejectedRecord.of(self._context.stream, record, event, origin))
        else:
            self._dispatcher.offer(PendingRecord(record, event, origin, self._context.read_ahead, now))

    def _reject_missing(self, origin: BacklogOffset) -> None:
        """Kafka has removed a record while it waited."""
        topic, offset = self._context.topic, origin.offset
        record = Record(topic.name, topic.id, origin.partition.number, offset, -1, origin.user.encode(), None)
        self._rejected_events.expire(record, offset, 1, WAITED, origin)

    def _reject_entry(self, entry: DeletedTopicEntry) -> None:
        """The topic was deleted while these records waited: one RejectedEvent for all."""
        offsets, key = entry.offsets, entry.backlog.user.encode()
        first = Record(self._context.topic.name, entry.topic_id, entry.number, offsets.first, -1, key, None)
        self._rejected_events.expire(first, offsets.last, len(offsets), TOPIC_GONE, entry)
