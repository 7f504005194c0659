"""Loads the backlogs of newly assigned partitions from the API server, and mends entries that somebody has damaged.

A damaged entry still says which records it is about. They are all good records of its user from `first` to `last`:
while a user has a backlog every new record of theirs goes behind it, and it is worked off from the front. The records
are still in Kafka, so the entry is made anew from the topic. Nobody can tell which of its numbers were changed too. So
what is found has to be `count` records, with `first` and `last` among them: to leave one out would lose it, and one
too many would run again an update that finished long ago (docs/decisions/0037-damaged-backlogs.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from controller.api.offset_queue import OffsetQueue
from controller.api.user_backlog import read_entry
from controller.bridge.backlogs.cache import Backlog, BacklogCache, PartitionQueue
from controller.bridge.backlogs.writer import BacklogWriter, responsible_partition
from controller.bridge.context import ConsumerContext
from controller.bridge.partitions import Partition
from controller.clients.cluster import BACKLOGS, Body
from controller.core.records import UpdateEvent, read_record
from controller.kafka import Fetcher, KafkaError

logger = logging.getLogger(__name__)

#: The reason of the condition while a damaged entry waits for a person.
BACKLOG_UNREADABLE: Final = "BacklogUnreadable"
_ADVICE = (
    "Set count, first and last to the records that are to become updates, which the bridge then finds; or take the"
    " entry out, which gives them all up"
)
#: Objects in a page of a list: each has up to 200 KB, and all of a page are parsed at once.
PAGE = 50
#: Offsets whose records are fetched at a time.
CHUNK = 2000


@dataclass(frozen=True, slots=True)
class DeletedTopicEntry:
    """Offsets that a backlog lists of a topic that was deleted, or made again with another id: the records are gone."""

    backlog: Backlog
    #: The partition of this replica on whose behalf they become RejectedEvents. If it is revoked, its next owner
    #: writes them.
    partition: Partition
    topic_id: str
    #: The partition of the deleted topic.
    number: int
    offsets: OffsetQueue
    from_backlog: ClassVar[bool] = False

    def done(self) -> None:
        """Their RejectedEvent is acknowledged."""
        self.backlog.expired_written(self.partition)


class BacklogLoader:
    """Loads the backlogs of newly assigned partitions into the cache."""

    def __init__(self, context: ConsumerContext, cache: BacklogCache, writer: BacklogWriter, fetcher: Fetcher) -> None:
        self._context = context
        self._cache = cache
        self._writer = writer
        self._fetcher = fetcher
        #: The results for damaged entries, by the object's uid and version and the partition: the code of their
        #: offsets, or why there are none. While one of them cannot be mended, all entries are loaded again and again.
        self._mended: dict[tuple[str, str, int], str | KafkaError] = {}

    async def load(self, assigned: Iterable[Partition]) -> list[DeletedTopicEntry]:
        """Load what waits in these partitions, and return what waits under other ids of the topic.

        The objects go on listing the latter until each is counted down in its backlog's `expired`.
        Raises ApiError, or KafkaError: BACKLOG_UNREADABLE.
        """
        read: dict[tuple[str, int], OffsetQueue] = {}
        bodies: list[Body] = []
        damaged: list[tuple[Body, int, Body]] = []
        stream = self._context.stream
        selector = f"spec.stream={stream.name}"
        async for listing in self._context.cluster.pages(
            BACKLOGS, stream.namespace, field_selector=selector, page=PAGE
        ):
            for body in listing.items:
                bodies.append(body)
                for index, entry in self._entries(body, assigned):
                    try:
                        read[body["metadata"]["name"], index] = read_entry(entry)
                    except ValueError:
                        damaged.append((body, index, entry))
                await asyncio.sleep(0)  # a thousand of them take seconds
        # However long this takes, nobody else writes these entries: the partitions are assigned to this replica.
        for body, index, entry in damaged:
            read[body["metadata"]["name"], index] = await self.mend(body, entry)
        # No await from here on: a partition that is revoked now must not be loaded later.
        held = {partition.number: partition for partition in assigned if not partition.revoked}
        for partition in held.values():
            partition.backlogs_loaded = True
        return [gone for body in bodies for gone in self._load(body, held, read)]

    async def mend(self, body: Body, entry: Body) -> OffsetQueue:
        """The offsets of a damaged entry, from the topic.

        Raises KafkaError: BACKLOG_UNREADABLE, or what the brokers refuse.
        """
        metadata = body["metadata"]
        key = metadata["uid"], metadata["resourceVersion"], entry["partition"]
        if key not in self._mended:
            try:
                self._mended[key] = OffsetQueue(await self._mend(body, entry)).encode()
            except KafkaError as error:
                if error.reason != BACKLOG_UNREADABLE:
                    raise
                self._mended[key] = error
        if isinstance(found := self._mended[key], KafkaError):
            raise found
        return OffsetQueue.decode(found)

    def _entries(self, body: Body, assigned: Iterable[Partition]) -> list[tuple[int, Body]]:
        """The entries that the replica with these partitions looks after, each with its index in the object's list."""
        numbers = {partition.number for partition in assigned if not partition.revoked}
        entries = body["spec"].get("partitions") or ()
        topic = self._context.topic
        return [(index, entry) for index, entry in enumerate(entries) if responsible_partition(entry, topic) in numbers]

    def _load(
        self, body: Body, held: Mapping[int, Partition], read: Mapping[tuple[str, int], OffsetQueue]
    ) -> list[DeletedTopicEntry]:
        name, topic = body["metadata"]["name"], self._context.topic
        found = [(entry, read[name, index]) for index, entry in self._entries(body, held.values())]
        if not held or (body["spec"].get("partitions") and not found):
            return []
        queues = [
            PartitionQueue(held[entry["partition"]], offsets)
            for entry, offsets in found
            if entry["topicId"] == topic.id and entry["partition"] in held
        ]
        backlog = self._cache.load(body["spec"]["user"], body, queues)
        gone = [
            DeletedTopicEntry(
                backlog, held[responsible_partition(entry, topic)], entry["topicId"], entry["partition"], offsets
            )
            for entry, offsets in found
            if entry["topicId"] != topic.id and len(offsets)
        ]
        backlog.expired.update(each.partition for each in gone)
        self._writer.observe(backlog, body)
        return gone

    async def _mend(self, body: Body, entry: Body) -> list[int]:
        what = f"UserBacklog {body['metadata']['name']}, partition {entry['partition']}"
        listed = tuple(entry.get(name) for name in ("count", "first", "last"))
        count, first, last = listed
        if entry["topicId"] != self._context.topic.id:
            message = f"{what}: its offsets cannot be read; the topic that they are of is gone. Take the entry out"
            raise KafkaError(BACKLOG_UNREADABLE, message)
        if not (count and first is not None and last is not None):
            message = f"{what}: its offsets cannot be read, and it does not say which they are. {_ADVICE}"
            raise KafkaError(BACKLOG_UNREADABLE, message)
        logger.warning("%s: its offsets cannot be read; reading them again from the topic", what)
        found = await self._offsets(body["spec"]["user"].encode(), entry["partition"], first, last)
        seen = (len(found), found[0], found[-1]) if found else (0, None, None)
        if seen != listed:
            message = (
                f"{what}: its offsets cannot be read. It says that they are {count} from {first} to {last}, where the"
                f" topic has {seen[0]} records of the user" + (f", from {seen[1]} to {seen[2]}" if found else "")
            )
            raise KafkaError(BACKLOG_UNREADABLE, f"{message}. {_ADVICE}")
        logger.warning("%s: mended, with all of its %d records", what, count)
        return found

    async def _offsets(self, user: bytes, partition: int, first: int, last: int) -> list[int]:
        """The offsets of the user's good records from `first` to `last`. Raises KafkaError."""
        found: list[int] = []
        while first <= last:
            wanted = range(first, min(first + CHUNK, last + 1))
            result = await self._fetcher.fetch(partition, wanted)
            if not (result.records or result.missing):
                if result.ended:
                    break  # somebody has changed `last` to an offset that no record has
                message = (
                    f"partition {partition}: no record comes from offset {first} on, and a UserBacklog ends at {last}"
                )
                raise KafkaError("BrokerUnreachable", message)
            good = [record for record in result.records if record.key == user]
            found += [r.offset for r in good if isinstance(read_record(r, from_backlog=True), UpdateEvent)]
            first += len(result.records) + len(result.missing)  # a pass may end before it has found them all
        return found
