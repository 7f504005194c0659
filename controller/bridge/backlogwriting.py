"""Brings the backlogs into the API server: each by one write for many offsets, all together at a bounded rate."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from controller import names
from controller.backlogs import OffsetQueue
from controller.bridge import metrics
from controller.bridge.brake import Brake
from controller.bridge.overflow import Backlog, Overflow, Queue
from controller.bridge.partitions import Lost, Partition, Partitions
from controller.cluster import BACKLOGS, Body, Cluster
from controller.crashpoints import reach
from controller.errors import AlreadyExists, ApiError, Conflict, NotFound
from controller.kafka import KafkaError, Topic
from controller.streams import UpdateStream

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
#: While there is no backlog.
IDLE_SECONDS = 0.5
#: Why a stream is not consumed: nobody but a person can mend it.
UNREADABLE: Final = "BacklogUnreadable"
PARALLEL = 8
#: Bytes a second of a stream's backlogs; an object counts for more than its text.
RATE = 1 << 20
OBJECT_OVERHEAD = 1500


@dataclass(frozen=True, slots=True)
class Gone:
    """Offsets of a topic that was deleted, or made again under another id."""

    backlog: Backlog
    #: One of this replica's, on whose behalf they are shown.
    partition: Partition
    topic_id: str
    number: int
    offsets: OffsetQueue


class BacklogWriter:
    """One write at a time for each user, under the version that was read: replicas share a user's object."""

    def __init__(
        self,
        cluster: Cluster,
        stream: UpdateStream,
        topic: Topic,
        overflow: Overflow,
        partitions: Partitions,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._cluster = cluster
        self._stream = stream
        self._topic = topic
        self._overflow = overflow
        self._partitions = partitions
        #: Called with what should never happen; it ends the consumption.
        self._failed = failed
        self.brake = Brake(PARALLEL)
        self._tasks: set[asyncio.Task[None]] = set()
        #: One for each write that is under way.
        self._writes: set[asyncio.Future[None]] = set()
        self._next = 0.0

    async def refresh(self, fresh: Iterable[Partition]) -> list[Gone]:
        """Adopt what waits in newly assigned partitions. Raises ApiError.

        Returns what waits under other ids of the topic: those records are gone. The objects say so until each entry's
        `backlog.expiring` is counted down.
        """
        listing = await self._cluster.list(
            BACKLOGS, self._stream.namespace, field_selector=f"spec.stream={self._stream.name}"
        )
        mine = {partition.number: partition for partition in fresh if not partition.revoked}
        if not mine:
            return []
        gone = [gone for body in listing.items for gone in self._adopt(body, mine)]
        for partition in mine.values():
            partition.adopted = True
        return gone

    def _adopt(self, body: Body, mine: Mapping[int, Partition]) -> list[Gone]:
        entries = body["spec"].get("partitions") or []
        queues, lost = [], []
        for entry in entries:
            number, offsets = entry["partition"], _decoded(body, entry)
            if entry["topicId"] == self._topic.id and number in mine:
                queues.append(Queue(mine[number], offsets))
            elif entry["topicId"] != self._topic.id and self._owner(entry) in mine and len(offsets):
                lost.append((entry["topicId"], number, offsets))
        if entries and not queues and not lost:
            return []
        backlog = self._overflow.adopt(body["spec"]["user"], body, queues)
        backlog.expiring += len(lost)
        partition = next(iter(mine.values()))
        return [Gone(backlog, partition, topic_id, number, offsets) for topic_id, number, offsets in lost]

    async def run(self) -> None:
        while True:
            now = time.monotonic()
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
            self._failed(error)

    async def _save(self, backlog: Backlog) -> None:
        """Until it is written, or part of it is this replica's no more: `run` looks again at what is left of it."""
        try:
            while self._overflow.current(backlog):
                async with self.brake.turn():
                    if await self._tried(backlog):
                        return
        finally:
            backlog.saving = False

    async def _tried(self, backlog: Backlog) -> bool:
        """Whether there is nothing more to do for now."""
        try:
            await self._attempt(backlog)
        except Lost:
            # The backlog may not be given up yet, and to ask again at once would keep anybody from doing it.
            return True
        except (AlreadyExists, Conflict, NotFound):
            backlog.body = await self._read(backlog)
            return False
        except ApiError as error:
            logger.warning("UserBacklog not written: %s", error)
            self.brake.failed(error)
            return False
        self.brake.worked()
        return True

    async def _read(self, backlog: Backlog) -> Body | None:
        try:
            return await self._cluster.get(BACKLOGS, self._stream.namespace, self._name(backlog))
        except NotFound:
            return None
        except ApiError as error:
            self.brake.failed(error)
            return backlog.body

    async def _attempt(self, backlog: Backlog) -> None:
        for queue in list(backlog.queues.values()):
            await self._partitions.hold(queue.partition)
        write: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writes.add(write)
        try:
            await self._bring(backlog)
        finally:
            self._writes.discard(write)
            write.set_result(None)

    async def _bring(self, backlog: Backlog) -> None:
        others = self._others(backlog)
        if not backlog.count and not others:
            return await self._remove(backlog)
        entries = others + [self._entry(queue) for queue in backlog.queues.values() if len(queue.offsets)]
        saving, backlog.unsaved = backlog.unsaved, []
        backlog.added = backlog.taken = None
        self._account(entries)
        reach("bridge.backlog")
        try:
            backlog.body = await self._write(backlog, entries)
        except BaseException:
            backlog.unsaved = saving + backlog.unsaved
            backlog.added = backlog.taken = time.monotonic()
            raise
        reach("bridge.backlogged")
        self._overflow.saved(saving)

    async def _write(self, backlog: Backlog, entries: list[Body]) -> Body:
        if backlog.body is None:
            return await self._cluster.create(BACKLOGS, self._stream.namespace, self._manifest(backlog, entries))
        # The finalizer is written again: whoever took it off by hand has lost nothing by that.
        version = backlog.body["metadata"]["resourceVersion"]
        metadata = {"resourceVersion": version}
        if "deletionTimestamp" not in backlog.body["metadata"]:
            metadata |= {"finalizers": [names.BACKLOG_FINALIZER]}
        patch = {"metadata": metadata, "spec": {"partitions": entries}}
        return await self._cluster.patch(BACKLOGS, self._stream.namespace, self._name(backlog), patch)

    async def _remove(self, backlog: Backlog) -> None:
        """Delete it, then let it go: in this order a crash in between leaves an empty one, which is removed later."""
        if backlog.body is not None:
            reach("bridge.backlog-remove")
            await self._release(backlog, await self._delete(backlog, backlog.body))
        backlog.body = None
        if not backlog.count:
            self._overflow.drop(backlog)

    async def _delete(self, backlog: Backlog, body: Body) -> Body:
        metadata = body["metadata"]
        if "deletionTimestamp" in metadata:
            return body
        version = int(metadata["resourceVersion"])
        name = self._name(backlog)
        return await self._cluster.delete(BACKLOGS, self._stream.namespace, name, metadata["uid"], version)

    async def _release(self, backlog: Backlog, body: Body) -> None:
        if not body["metadata"].get("finalizers"):
            return
        reach("bridge.backlog-release")
        patch = {"metadata": {"resourceVersion": body["metadata"]["resourceVersion"], "finalizers": None}}
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
        labels = {names.STREAM_LABEL: self._stream.name, names.USER_LABEL: names.user_label(backlog.user)}
        return {
            "apiVersion": names.API_VERSION,
            "kind": "UserBacklog",
            "metadata": {
                "name": self._name(backlog),
                "namespace": self._stream.namespace,
                "labels": labels,
                "finalizers": [names.BACKLOG_FINALIZER],
            },
            "spec": {"stream": self._stream.name, "user": backlog.user, "partitions": entries},
        }

    def _entry(self, queue: Queue) -> dict[str, Any]:
        return {
            "topic": self._topic.name,
            "topicId": self._topic.id,
            "partition": queue.partition.number,
            "offsets": queue.offsets.encode(),
            "count": len(queue.offsets),
            "first": queue.offsets.first,
            "last": queue.offsets.last,
        }

    def _name(self, backlog: Backlog) -> str:
        return names.backlog_name(self._stream.name, backlog.user)

    def _account(self, entries: list[Body]) -> None:
        """The next write of any backlog waits until this one is paid for."""
        size = len(orjson.dumps(entries)) + OBJECT_OVERHEAD
        metrics.BACKLOG_BYTES.labels(self._stream.namespace, self._stream.name).inc(size)
        self._next = max(self._next, time.monotonic()) + size / RATE


def _decoded(body: Body, entry: Body) -> OffsetQueue:
    """Raises KafkaError: to go on without knowing which records wait would lose them."""
    try:
        return OffsetQueue.decode(entry["offsets"])
    except ValueError as error:
        message = (
            f"UserBacklog {body['metadata']['name']}, partition {entry['partition']}: offsets that cannot be read"
            f" ({error}). Restore them; taking the entry out gives these records up"
        )
        raise KafkaError(UNREADABLE, message) from error
