"""Records that can never become a UserUpdate are shown as RejectedEvents. They stop nothing that comes after them.

The first 100 in any minute have an object each. Beyond that, neighbours of the same reason and partition share one, as
client-go aggregates Events: its `lastOffset` and `count` grow, and its message is that of the first. It takes no more
records after a minute, so that people see when a flood went on. Where old objects cannot be deleted, no record has one
of its own, and no object is too old to be shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from controller.api.names import USER_LABEL, record_name
from controller.api.rejected_event import RejectionReason
from controller.api.update_stream import UpdateStream
from controller.bridge import metrics
from controller.bridge.context import ConsumerContext
from controller.bridge.partitions import Lost, Partition
from controller.bridge.pending import Origin
from controller.clients.cluster import REJECTED, Body
from controller.core.records import Record, Rejection, rejected_event_manifest
from controller.errors import AlreadyExists, ApiError, Invalid, NotFound
from controller.logs import retrying

logger = logging.getLogger(__name__)

#: RejectedEvents of a stream that are kept; older ones are deleted.
KEPT = 1000
#: Where old ones cannot be deleted, and there are so many, further records share those that exist.
CROWDED = 2 * KEPT
#: New RejectedEvents after which old ones are deleted.
SLACK = 100
#: Records that are taken from the queue at a time.
BATCH = 5000
#: Tries after which a RejectedEvent that is refused as invalid is written without key, value and pointer.
BARE_AFTER = 3
#: Seconds for which an object takes further records, and RejectedEvents of a single record in so many seconds.
MINUTE = 60.0
SINGLES_A_MINUTE = 100
#: Stands before the message of a record that shares its object: the others may have another fault.
FIRST = "the first of several: "
#: Why Kafka no longer has a record that is waited for.
_REMOVED = "by retention (retention.ms, retention.bytes), compaction or deletion, which have to leave enough time"
UNREAD = f"Kafka removed what was here before it was read, {_REMOVED}"
WAITED = f"Kafka removed what was here while it waited in its user's backlog, {_REMOVED}"
TOPIC_GONE = "the topic was deleted or made again while this waited in its user's backlog"
#: Bytes of memory that a manifest takes beside key and value.
MANIFEST_OVERHEAD = 3000

#: Reason, topic id, partition.
Kind: TypeAlias = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One RejectedEvent, and the records that it stands for."""

    name: str
    offset: int
    last_offset: int
    count: int
    #: When it was begun, in seconds of any clock.
    since: float
    #: The message for the record at `offset`, as in an object that stands for that record alone.
    message: str

    def with_record(self, last_offset: int, count: int) -> Aggregate:
        return replace(self, last_offset=max(last_offset, self.last_offset), count=self.count + count)


class Aggregator:
    """Which RejectedEvent shows a record: its own, or one that it shares with its neighbours. Pure."""

    def __init__(self) -> None:
        self._singles: deque[float] = deque()
        self._open: dict[Kind, Aggregate] = {}
        self._known: dict[Kind, list[tuple[int, int]]] = {}

    def may_be_single(self, now: float) -> bool:
        """Whether the next record may have an object of its own. If so, that is counted."""
        while self._singles and self._singles[0] <= now - MINUTE:
            self._singles.popleft()
        if len(self._singles) >= SINGLES_A_MINUTE:
            return False
        self._singles.append(now)
        return True

    def current(self, kind: Kind, offset: int, now: float, *, crowded: bool = False) -> Aggregate | None:
        """The object to share; None: a new one is to be made. Where there are too many, an old one goes on."""
        found = self._open.get(kind)
        return found if found and (crowded or now - found.since < MINUTE) and found.offset <= offset else None

    def put(self, kind: Kind, aggregate: Aggregate) -> None:
        """That object now stands for these records; later ones may share it."""
        self._open[kind] = aggregate

    def forget_known(self) -> None:
        """The objects that are there are about to be listed anew."""
        self._known.clear()

    def know(self, kind: Kind, offset: int, last_offset: int) -> None:
        """An object that was there when reading began."""
        self._known.setdefault(kind, []).append((offset, last_offset))

    def knows(self, kind: Kind, offset: int, last_offset: int) -> bool:
        """All these records were shown before reading began."""
        return any(first <= offset and last_offset <= last for first, last in self._known.get(kind, ()))


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A record, or several that Kafka has removed, and the RejectedEvent to be written for it.

    The record itself, of up to 8 MiB, is not kept.
    """

    manifest: Body
    #: Its `done` is called when the RejectedEvent is acknowledged.
    origin: Origin

    @classmethod
    def of(cls, stream: UpdateStream, record: Record, rejection: Rejection, origin: Origin) -> RejectedRecord:
        return cls(rejected_event_manifest(stream, record, rejection), origin)

    @classmethod
    def expired(
        cls, stream: UpdateStream, first: Record, last_offset: int, count: int, why: str, origin: Origin
    ) -> RejectedRecord:
        """Records that Kafka no longer has, from `first` to `last_offset`, and why."""
        rejected = cls.of(stream, first, Rejection(RejectionReason.PAYLOAD_EXPIRED, why), origin)
        rejected.manifest["spec"]["source"]["lastOffset"] = last_offset
        rejected.manifest["spec"]["count"] = count
        return rejected

    @property
    def partition(self) -> Partition:
        return self.origin.partition

    @property
    def kind(self) -> Kind:
        source = self._source
        return self.manifest["spec"]["reason"], source["topicId"], source["partition"]

    @property
    def offset(self) -> int:
        offset: int = self._source["offset"]
        return offset

    @property
    def last_offset(self) -> int:
        offset: int = self._source["lastOffset"]
        return offset

    @property
    def count(self) -> int:
        count: int = self.manifest["spec"]["count"]
        return count

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        spec = self.manifest["spec"]
        return MANIFEST_OVERHEAD + len(spec.get("key", "")) + len(spec.get("value", ""))

    def begin_later(self) -> None:
        """Leave out the first of several records: it has a RejectedEvent for another reason."""
        spec, source = self.manifest["spec"], self._source
        source["offset"] += 1
        spec["count"] -= 1
        self.manifest["metadata"]["name"] = record_name(
            spec["stream"], source["topicId"], source["partition"], source["offset"]
        )

    def bare(self) -> None:
        """Leave out what a producer has written."""
        for field in ("key", "value", "pointer"):
            self.manifest["spec"].pop(field, None)
        self.manifest["metadata"]["labels"].pop(USER_LABEL, None)

    @property
    def _source(self) -> dict[str, Any]:
        source: dict[str, Any] = self.manifest["spec"]["source"]
        return source


def aggregate_of(group: Sequence[RejectedRecord]) -> tuple[Aggregate, Body]:
    """Make one object for all of these records. The records stay as they are, for the next try."""
    first = group[0].manifest
    aggregate = Aggregate(
        name=first["metadata"]["name"],
        offset=group[0].offset,
        last_offset=max(rejected.last_offset for rejected in group),
        count=sum(rejected.count for rejected in group),
        since=time.monotonic(),
        message=first["spec"]["message"],
    )
    source = {**first["spec"]["source"], "lastOffset": aggregate.last_offset}
    message = aggregate.message if len(group) == 1 else FIRST + aggregate.message
    return aggregate, {
        **first,
        "spec": {**first["spec"], "message": message, "source": source, "count": aggregate.count},
    }


@dataclass(slots=True, eq=False)
class RejectedEventWrite:
    """Records that one object is to show, until it is acknowledged or their partitions are another replica's."""

    group: list[RejectedRecord]
    #: Neighbours of one kind in a flood, in an object that takes further ones too.
    shared: bool
    #: A refused write is not tried again before this time of the monotonic clock.
    again: float = 0.0

    def __str__(self) -> str:
        partition, offset = self.group[0].kind[2], self.group[0].offset
        return f"the RejectedEvent of partition {partition}, offset {offset}"


class RejectedEvents:
    """Writes the RejectedEvents of one stream, one after the other.

    A refused one is tried again for as long as its records are this replica's, whatever the answer, as `position` waits
    for it. It keeps no other one waiting.
    """

    def __init__(self, context: ConsumerContext) -> None:
        self._context = context
        self._cluster = context.cluster
        self._stream = context.stream
        self._partitions = context.partitions
        self._aggregator = Aggregator()
        self.limiter = context.write_limiter()
        self._queue: list[RejectedRecord] = []
        self._refused: list[RejectedEventWrite] = []
        self._filled = asyncio.Event()
        self._kept = 0

    def add(self, rejected: RejectedRecord) -> None:
        self._queue.append(rejected)
        self._context.read_ahead.total += rejected.cost
        self._filled.set()

    def expire(self, first: Record, last_offset: int, count: int, why: str, origin: Origin) -> None:
        """Show records that Kafka no longer has, from `first` to `last_offset`, and why."""
        self.add(RejectedRecord.expired(self._context.stream, first, last_offset, count, why, origin))

    def forget(self) -> None:
        """Partitions are another replica's now: it shows their records."""
        for write in self._refused:
            self._drop_revoked(write)
        self._refused = [write for write in self._refused if write.group]

    async def refresh(self) -> None:
        """Read which records are shown already: a shared object has the name of its first record. Raises ApiError."""
        listing = await self._cluster.list(REJECTED, self._stream.namespace, field_selector=self._selector)
        self._kept = len(listing.items)
        self._aggregator.forget_known()
        for body in listing.items:
            spec, source = body["spec"], body["spec"]["source"]
            if spec["count"] > 1:
                kind = (spec["reason"], source["topicId"], source["partition"])
                self._aggregator.know(kind, source["offset"], source["lastOffset"])

    async def run(self) -> None:
        while True:
            await self._next()
            batch, self._queue = self._queue[:BATCH], self._queue[BATCH:]
            if self._queue:
                self._filled.set()
            now = time.monotonic()
            due = [write for write in self._refused if write.again <= now]
            for write in (*due, *self._sorted(batch)):
                await self._try(write)
                await self._prune(SLACK)
            await self._prune()

    @property
    def _selector(self) -> str:
        return f"spec.stream={self._stream.name}"

    @property
    def _crowded(self) -> bool:
        return self._kept >= CROWDED

    async def _next(self) -> None:
        """Wait until there is something new, or something refused is to be tried again."""
        due = min((write.again for write in self._refused), default=None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - time.monotonic()) if due is not None else None):
                await self._filled.wait()
        self._filled.clear()

    def _sorted(self, batch: list[RejectedRecord]) -> list[RejectedEventWrite]:
        """Make a write for each record that may have an object of its own, and one for all others of each kind."""
        own: list[RejectedEventWrite] = []
        shared: dict[Kind, RejectedEventWrite] = {write.group[0].kind: write for write in self._refused if write.shared}
        new: list[RejectedEventWrite] = []
        for rejected in batch:
            kind = rejected.kind
            if self._aggregator.knows(kind, rejected.offset, rejected.last_offset):
                self._context.read_ahead.total -= rejected.cost
                rejected.origin.done()
            elif not (self.limiter.failing_for() or self._crowded) and self._aggregator.may_be_single(time.monotonic()):
                own.append(RejectedEventWrite([rejected], shared=False))
            elif kind in shared:
                shared[kind].group.append(rejected)
            else:
                shared[kind] = RejectedEventWrite([rejected], shared=True)
                new.append(shared[kind])
        return own + new

    async def _try(self, write: RejectedEventWrite) -> None:
        """Try it once. If it is refused, it is tried again later."""
        if write in self._refused:
            self._refused.remove(write)
        async with self.limiter.turn():
            await self._wait_held(write)
            if not write.group:
                return
            try:
                await (self._share if write.shared else self._create)(write.group)
            except ApiError as error:
                self._put_off(write, error)
                return
        for other in self.limiter.succeeded(write):
            assert isinstance(other, RejectedEventWrite)
            other.again = 0.0
        for rejected in write.group:
            self._context.read_ahead.total -= rejected.cost
            rejected.origin.done()

    def _put_off(self, write: RejectedEventWrite, error: ApiError) -> None:
        retrying(logger, "RejectedEvent not written", error, stream=self._stream.namespaced_name)
        self._drop_revoked(write)
        if not write.group:
            return
        seconds = self.limiter.failed(write, error, str(write))
        first = write.group[0]
        if isinstance(error, Invalid) and self.limiter.tries(write) >= BARE_AFTER:
            # A RejectedEvent without its record is better than none.
            before = first.cost
            first.bare()
            self._context.read_ahead.total += first.cost - before
        write.again = time.monotonic() + seconds
        self._refused.append(write)

    async def _wait_held(self, write: RejectedEventWrite) -> None:
        """Wait until it is certain that the records which are left are this replica's."""
        while True:
            self._drop_revoked(write)
            try:
                for partition in {rejected.partition for rejected in write.group}:
                    await self._partitions.wait_held(partition)
            except Lost:
                continue
            return

    def _drop_revoked(self, write: RejectedEventWrite) -> None:
        """Take out the records whose partitions were revoked. The others stay."""
        for rejected in write.group:
            if rejected.partition.revoked:
                self._context.read_ahead.total -= rejected.cost
        write.group = [rejected for rejected in write.group if not rejected.partition.revoked]
        if not write.group:
            self.limiter.forget(write)

    async def _create(self, group: list[RejectedRecord]) -> None:
        aggregate, manifest = aggregate_of(group)
        try:
            await self._cluster.create(REJECTED, self._stream.namespace, manifest)
        except AlreadyExists:
            # It was created before a restart: a RejectedEvent is named after its first record.
            if aggregate.count > 1:
                return await self._extend(group, aggregate)
        else:
            self._kept += 1
            self._count(group, aggregate.count)
        self._aggregator.put(group[0].kind, aggregate)

    async def _extend(self, group: list[RejectedRecord], aggregate: Aggregate) -> None:
        """There is an object of the first record's name. It may show fewer records, or another reason."""
        selector = f"metadata.name={aggregate.name}"  # listed: there is no right to get one
        found = await self._cluster.list(REJECTED, self._stream.namespace, field_selector=selector)
        if not found.items:  # a person has deleted it
            return await self._create(group)
        spec = found.items[0]["spec"]
        if spec["reason"] == group[0].kind[0]:
            known = spec["source"]["lastOffset"], spec["count"]
            aggregate = replace(
                aggregate, last_offset=max(aggregate.last_offset, known[0]), count=max(aggregate.count, known[1])
            )
            if (aggregate.last_offset, aggregate.count) != known:
                await self._grow(aggregate)
                self._count(group, aggregate.count - known[1])
            self._aggregator.put(group[0].kind, aggregate)
        else:
            group[0].begin_later()
            await self._create(group)

    async def _share(self, group: list[RejectedRecord]) -> None:
        first = group[0]
        aggregate = self._aggregator.current(first.kind, first.offset, time.monotonic(), crowded=self._crowded)
        if aggregate is None:
            return await self._create(group)
        for rejected in group:
            aggregate = aggregate.with_record(rejected.last_offset, rejected.count)
        try:
            await self._grow(aggregate)
        except (NotFound, Invalid):  # a person has deleted it, or it has grown beyond what is known
            return await self._create(group)
        self._count(group, sum(rejected.count for rejected in group))
        self._aggregator.put(first.kind, aggregate)

    def _count(self, group: list[RejectedRecord], records: int) -> None:
        """Count records that are shown for the first time, not those that are read again after a restart."""
        metrics.rejected(self._stream, group[0].kind[0], records)

    async def _grow(self, aggregate: Aggregate) -> None:
        """Write that the object stands for more records than before."""
        spec = {
            "source": {"lastOffset": aggregate.last_offset},
            "count": aggregate.count,
            "message": FIRST + aggregate.message,
        }
        patch = {"spec": spec}
        await self._cluster.patch(REJECTED, self._stream.namespace, aggregate.name, patch)

    async def _prune(self, slack: int = 0) -> None:
        """Delete the oldest where there are too many. Another replica may do so at the same time."""
        if self._kept <= KEPT + slack:
            return
        try:
            listing = await self._cluster.list(
                REJECTED, self._stream.namespace, field_selector=self._selector, metadata_only=True
            )
            by_age = sorted((body["metadata"] for body in listing.items), key=_age)
            for metadata in by_age[: max(len(by_age) - KEPT, 0)]:
                await self._delete(metadata["name"])
            self._kept = min(len(by_age), KEPT)
        except ApiError as error:
            retrying(logger, "Old RejectedEvents not deleted", error, stream=self._stream.namespaced_name)

    async def _delete(self, name: str) -> None:
        try:
            await self._cluster.delete(REJECTED, self._stream.namespace, name)
        except NotFound:
            pass


def _age(metadata: dict[str, Any]) -> tuple[str, str]:
    return metadata["creationTimestamp"], metadata["name"]
