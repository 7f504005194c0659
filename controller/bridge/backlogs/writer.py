"""Brings the backlogs into the API server: each by one write for many offsets, all together at a bounded rate.

A rebalance may happen during any await, so what was known before it is checked again after it: the backlog may have
been given up, and its user have another one; a partition may have been taken up whose records the object lists.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from controller import failpoints
from controller.api import names, user_backlog
from controller.api.offset_queue import OffsetQueue
from controller.bridge import metrics
from controller.bridge.backlogs import finalizers
from controller.bridge.backlogs.overflow import Backlog, Others, Overflow, Queue
from controller.bridge.backlogs.reader import BacklogReader
from controller.bridge.context import ConsumerContext
from controller.bridge.partitions import Lost, Partition
from controller.bridge.write_limiter import Brake
from controller.clients.cluster import BACKLOGS, Body
from controller.errors import AlreadyExists, ApiError, Conflict, NotFound
from controller.kafka import Fetcher
from controller.logs import retrying

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
#: While there is no backlog.
IDLE_SECONDS = 0.5
PARALLEL = 8
#: Bytes a second of a stream's backlogs; an object counts for more than its text.
RATE = 1 << 20
OBJECT_OVERHEAD = 1500
#: Objects in a page of a list: up to 200 KB each, parsed at once.
PAGE = 50
#: Replicas may write one object at the same time. So many conflicts in a row are retried at once; what goes on longer
#: is refused like anything else.
TRIES = 3
#: Seconds between backlogs of further users that are begun while some are refused and none is written: it may be that
#: all are refused.
PROBE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Gone:
    """Offsets of a topic that was deleted, or made again under another id."""

    backlog: Backlog
    #: The one of this replica's on whose behalf they are shown; should it be revoked, its next owner shows them.
    partition: Partition
    topic_id: str
    number: int
    offsets: OffsetQueue


class BacklogWriter:
    """One write at a time for each user, under the version that was read: replicas share a user's object."""

    def __init__(
        self,
        context: ConsumerContext,
        overflow: Overflow,
        rereader: Fetcher,
    ) -> None:
        self._context = context
        self._cluster = context.cluster
        self._stream = context.stream
        self._topic = context.topic
        self._overflow = overflow
        self._partitions = context.partitions
        self._reader = BacklogReader(context.topic, rereader)
        self.brake = Brake(PARALLEL)
        self._tasks: set[asyncio.Task[None]] = set()
        #: One for each write that is under way.
        self._writes: set[asyncio.Future[None]] = set()
        self._next = 0.0
        self._probed = float("-inf")

    def may_begin(self, now: float) -> bool:
        """Whether a further user's backlog may be begun. While none can be written, one now and then finds out."""
        if not self.brake.failing_for():
            return True
        if now - self._probed < PROBE_SECONDS:
            return False
        self._probed = now
        return True

    async def refresh(self, fresh: Iterable[Partition]) -> list[Gone]:
        """Adopt what waits in newly assigned partitions. Raises ApiError, or KafkaError: UNREADABLE.

        Returns what waits under other ids of the topic: those records are gone. The objects say so until each entry's
        `backlog.expiring` is counted down.
        """
        read: dict[tuple[str, int], OffsetQueue] = {}
        bodies: list[Body] = []
        damaged: list[tuple[Body, int, Body]] = []
        pages = self._cluster.pages(
            BACKLOGS, self._stream.namespace, field_selector=f"spec.stream={self._stream.name}", page=PAGE
        )
        async for listing in pages:
            for body in listing.items:
                bodies.append(body)
                for index, entry in self._mine(body, fresh):
                    offsets = self._reader.read(entry)
                    if offsets is None:
                        damaged.append((body, index, entry))
                    else:
                        read[body["metadata"]["name"], index] = offsets
                await asyncio.sleep(0)  # a thousand of them are seconds
        # Nobody else writes these entries, however long it takes: they are those of partitions that are this replica's.
        for body, index, entry in damaged:
            read[body["metadata"]["name"], index] = await self._reader.mend(body, entry)
        # From here on at once: a partition that is taken away now and adopted later would be adopted for good.
        mine = {partition.number: partition for partition in fresh if not partition.revoked}
        for partition in mine.values():
            partition.adopted = True
        return [gone for body in bodies for gone in self._adopt(body, mine, read)]

    def _mine(self, body: Body, fresh: Iterable[Partition]) -> list[tuple[int, Body]]:
        """The entries that the owner of these partitions looks after, with their places."""
        numbers = {partition.number for partition in fresh if not partition.revoked}
        entries = body["spec"].get("partitions") or ()
        return [(index, entry) for index, entry in enumerate(entries) if self._owner(entry) in numbers]

    def _adopt(
        self, body: Body, mine: Mapping[int, Partition], read: Mapping[tuple[str, int], OffsetQueue]
    ) -> list[Gone]:
        name = body["metadata"]["name"]
        found = [(entry, read[name, index]) for index, entry in self._mine(body, mine.values())]
        if not mine or (body["spec"].get("partitions") and not found):
            return []
        queues = [
            Queue(mine[entry["partition"]], offsets)
            for entry, offsets in found
            if entry["topicId"] == self._topic.id and entry["partition"] in mine
        ]
        backlog = self._overflow.adopt(body["spec"]["user"], body, queues)
        lost = [
            Gone(backlog, mine[self._owner(entry)], entry["topicId"], entry["partition"], offsets)
            for entry, offsets in found
            if entry["topicId"] != self._topic.id and len(offsets)
        ]
        backlog.expiring.update(gone.partition for gone in lost)
        self._seen(backlog, body)
        return lost

    async def run(self) -> None:
        while True:
            now = time.monotonic()
            self.brake.keep(lambda key: isinstance(key, Backlog) and self._overflow.current(key))
            for backlog in self._overflow.due(now):
                if len(self._tasks) >= PARALLEL or now < self._next:
                    break
                self._start(backlog)
            await asyncio.sleep(LOOK_SECONDS if len(self._overflow) else IDLE_SECONDS)

    async def idle(self) -> None:
        """Wait for the writes that are under way: those that begin from now on know what was revoked."""
        if self._writes:
            await asyncio.wait(set(self._writes))

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _start(self, backlog: Backlog) -> None:
        backlog.saving = True
        task = asyncio.create_task(self._save(backlog))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._context.fail(error)

    async def _save(self, backlog: Backlog) -> None:
        """Once: `run` looks again at what is left of it, and at what was refused when its time has come."""
        try:
            async with self.brake.turn():
                if self._overflow.current(backlog):
                    await self._try(backlog)
        finally:
            backlog.saving = False

    async def _try(self, backlog: Backlog) -> None:
        try:
            await self._attempt_anew(backlog)
        except Lost:
            # The backlog may not be given up yet: whoever lets the partition go does that.
            self.brake.forget(backlog)
        except ApiError as error:
            retrying(logger, "UserBacklog not written", error, backlog=self._name(backlog))
            what = f"the UserBacklog {self._name(backlog)}"
            backlog.again = time.monotonic() + self.brake.failed(backlog, error, what)

    async def _attempt_anew(self, backlog: Backlog) -> None:
        """Where somebody else has changed the object, with what it is now. Raises Lost or ApiError."""
        for left in reversed(range(TRIES)):
            try:
                return await self._attempt(backlog)
            except (AlreadyExists, Conflict, NotFound):
                if not left:
                    raise
                await self._look(backlog)

    def _worked(self, backlog: Backlog) -> None:
        for other in self.brake.worked(backlog):
            assert isinstance(other, Backlog)
            other.again = 0.0

    async def _look(self, backlog: Backlog) -> None:
        """See the object as it is now. Raises ApiError."""
        try:
            body = await self._cluster.get(BACKLOGS, self._stream.namespace, self._name(backlog))
        except NotFound:
            body = None
        self._seen(backlog, body)

    def _seen(self, backlog: Backlog, body: Body | None) -> None:
        backlog.body = body
        sizes = [(len(entry["offsets"]) * 3 // 4, entry) for entry in self._others(backlog)]
        count = sum(entry.get("count", size) for size, entry in sizes)
        self._overflow.seen(backlog, body, Others(count, sum(size for size, _ in sizes)))

    async def _attempt(self, backlog: Backlog) -> None:
        """Raises Lost where it is not the time, or not this replica's, any more."""
        while self._uncertain(backlog):
            for queue in list(backlog.queues.values()):
                await self._partitions.hold(queue.partition)
        # Records of a former topic may have come to light meanwhile: they are listed here until they are shown.
        if backlog.expiring or not self._overflow.current(backlog):
            raise Lost
        write: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writes.add(write)
        try:
            await self._bring(backlog)
        finally:
            self._writes.discard(write)
            write.set_result(None)

    def _uncertain(self, backlog: Backlog) -> bool:
        """Some of its partitions may be another replica's: while one was waited for, another's time may have ended."""
        now = time.monotonic()
        partitions = [queue.partition for queue in backlog.queues.values()]
        return any(partition.revoked or partition.held_until <= now for partition in partitions)

    async def _bring(self, backlog: Backlog) -> None:
        if self._overflow.crowded(backlog) and not backlog.unsaved and backlog.taken is None:
            await self._look(backlog)
            return
        others = self._others(backlog)
        if not backlog.count and not others:
            return await self._remove(backlog)
        entries = others + [self._entry(queue) for queue in backlog.queues.values() if len(queue.offsets)]
        saving, backlog.unsaved = backlog.unsaved, []
        backlog.added = backlog.taken = None
        self._account(entries)
        failpoints.evaluate("bridge.backlog")
        try:
            body = await self._write(backlog, entries)
        except BaseException:
            backlog.unsaved = [entry for entry in saving if not entry[0].revoked] + backlog.unsaved
            backlog.added = backlog.taken = time.monotonic()
            raise
        failpoints.evaluate("bridge.backlogged")
        self._worked(backlog)
        self._overflow.saved(saving)
        self._seen(backlog, body)
        self._overflow.drop(backlog)  # where the rest of it is other replicas'

    async def _write(self, backlog: Backlog, entries: list[Body]) -> Body:
        if backlog.body is None:
            return await self._cluster.create(BACKLOGS, self._stream.namespace, self._manifest(backlog, entries))
        if "deletionTimestamp" in backlog.body["metadata"] and not finalizers.has_own(backlog.body):
            # It goes at any moment, with all that is written into it; the API server takes no new finalizer.
            kept = ", ".join(finalizers.others(backlog.body))
            raise Conflict(f"{self._name(backlog)} is being deleted, and kept by finalizers of others: {kept}")
        # Whoever took the finalizer off by hand has lost nothing by that.
        patch = {"metadata": finalizers.with_own(backlog.body), "spec": {"partitions": entries}}
        return await self._cluster.patch(BACKLOGS, self._stream.namespace, self._name(backlog), patch)

    async def _remove(self, backlog: Backlog) -> None:
        """Delete it, then let it go: in this order a crash in between leaves an empty one, which is removed later."""
        if backlog.body is not None:
            failpoints.evaluate("bridge.backlog-remove")
            await self._release(backlog, await self._delete(backlog, backlog.body))
            self._worked(backlog)
        self._seen(backlog, None)
        self._overflow.drop(backlog)

    async def _delete(self, backlog: Backlog, body: Body) -> Body:
        metadata = body["metadata"]
        if "deletionTimestamp" in metadata:
            return body
        version = int(metadata["resourceVersion"])
        name = self._name(backlog)
        return await self._cluster.delete(BACKLOGS, self._stream.namespace, name, metadata["uid"], version)

    async def _release(self, backlog: Backlog, body: Body) -> None:
        if not finalizers.has_own(body):
            return
        failpoints.evaluate("bridge.backlog-release")
        # Others may keep it for long, and what is listed in it is neither collected nor, after a restart, left alone.
        patch = {"metadata": finalizers.without_own(body), "spec": {"partitions": []}}
        try:
            await self._cluster.patch(BACKLOGS, self._stream.namespace, self._name(backlog), patch)
        except NotFound:
            pass

    def _others(self, backlog: Backlog) -> list[Body]:
        """Entries of partitions whose queues are not known here, as last read: another replica's, or not adopted yet.

        Those of gone topic ids fall out once they are shown.
        """
        if backlog.body is None:
            return []
        mine = {partition.number for partition in self._partitions if partition.adopted}
        return [entry for entry in backlog.body["spec"].get("partitions") or () if self._owner(entry) not in mine]

    def _owner(self, entry: Body) -> int:
        """The partition whose replica looks after that entry."""
        number: int = entry["partition"]
        return number if entry["topicId"] == self._topic.id else number % self._topic.partitions

    def _manifest(self, backlog: Backlog, entries: list[Body]) -> Body:
        return user_backlog.manifest(self._stream.namespace, self._stream.name, backlog.user, entries)

    def _entry(self, queue: Queue) -> dict[str, Any]:
        return user_backlog.entry(self._topic.name, self._topic.id, queue.partition.number, queue.offsets)

    def _name(self, backlog: Backlog) -> str:
        return names.backlog_name(self._stream.name, backlog.user)

    def _account(self, entries: list[Body]) -> None:
        """The next write of any backlog waits until this one is paid for."""
        size = len(orjson.dumps(entries)) + OBJECT_OVERHEAD
        metrics.BACKLOG_BYTES.labels(self._stream.namespace, self._stream.name).inc(size)
        self._next = max(self._next, time.monotonic()) + size / RATE
