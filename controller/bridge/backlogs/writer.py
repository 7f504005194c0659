"""Writes the cache to the API server: one write has many offsets, and all writes together keep to a rate.

A rebalance may happen during any await, so what was known before it is checked again after it. The backlog may have
left the cache, and its user may have another one. A partition may have been assigned whose records the object lists.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import orjson

from controller import failpoints
from controller.api import names, user_backlog
from controller.bridge import metrics
from controller.bridge.backlogs.cache import Backlog, BacklogCache, OtherReplicas, PartitionQueue
from controller.bridge.context import ConsumerContext
from controller.bridge.partitions import Lost
from controller.clients.cluster import BACKLOGS, Body
from controller.errors import AlreadyExists, ApiError, Conflict, NotFound
from controller.kafka import Topic
from controller.logs import retrying

logger = logging.getLogger(__name__)

#: Seconds between looks for backlogs that are to be written, and the same while there is no backlog.
LOOK_SECONDS = 0.1
IDLE_SECONDS = 0.5
#: Writes that are under way at a time.
PARALLEL = 8
#: Bytes that all backlogs of a stream write a second; an object counts for more than its text.
RATE = 1 << 20
OBJECT_OVERHEAD = 1500
#: Replicas may write one object at the same time. So many conflicts in a row are tried again at once; another one is a
#: refusal like any other.
TRIES = 3
#: While some writes are refused and none is acknowledged, a backlog of a further user is begun so often, to find out
#: whether all are refused.
PROBE_SECONDS = 5.0


class BacklogWriter:
    """Writes one backlog at a time for each user, by the version that was read: replicas share a user's object."""

    def __init__(self, context: ConsumerContext, cache: BacklogCache) -> None:
        self._context = context
        self._cluster = context.cluster
        self._stream = context.stream
        self._topic = context.topic
        self._partitions = context.partitions
        self._cache = cache
        self.limiter = context.write_limiter(PARALLEL)
        self._tasks: set[asyncio.Task[None]] = set()
        #: One for each write that is under way.
        self._writes: set[asyncio.Future[None]] = set()
        self._next_write_at = 0.0
        self._probed_at = float("-inf")

    def may_begin(self, now: float) -> bool:
        """Whether a backlog of a further user may be begun at this time of the monotonic clock."""
        if not self.limiter.failing_for():
            return True
        if now - self._probed_at < PROBE_SECONDS:
            return False
        self._probed_at = now
        return True

    async def run(self) -> None:
        """Write what is due, until cancelled."""
        while True:
            now = time.monotonic()
            self.limiter.keep(set(self._cache))
            for backlog in self._cache.due(now):
                if len(self._tasks) >= PARALLEL or now < self._next_write_at:
                    break
                self._start(backlog)
            await asyncio.sleep(LOOK_SECONDS if len(self._cache) else IDLE_SECONDS)

    async def writes_ended(self) -> None:
        """Wait for the writes that are under way; those that begin later know which partitions were revoked."""
        if self._writes:
            await asyncio.wait(set(self._writes))

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def observe(self, backlog: Backlog, body: Body | None) -> None:
        """The object as it is now; None where there is none."""
        backlog.body = body
        sizes = [(len(entry["offsets"]) * 3 // 4, entry) for entry in self._others(backlog)]
        count = sum(entry.get("count", size) for size, entry in sizes)
        self._cache.observe(backlog, body, OtherReplicas(count, sum(size for size, _ in sizes)))

    def _start(self, backlog: Backlog) -> None:
        backlog.writing = True
        self._context.start(self._write_once(backlog), self._tasks)

    async def _write_once(self, backlog: Backlog) -> None:
        """Try a write. `run` tries a refused one again when its time has come, and writes what was added meanwhile."""
        try:
            async with self.limiter.turn():
                if self._cache.has(backlog):
                    await self._try(backlog)
        finally:
            backlog.writing = False

    async def _try(self, backlog: Backlog) -> None:
        try:
            await self._retry_conflicts(backlog)
        except Lost:
            # The backlog may still be in the cache: the revocation takes it out.
            self.limiter.forget(backlog)
        except ApiError as error:
            name = self._name(backlog)
            retrying(logger, "UserBacklog not written", error, backlog=name)
            backlog.retry_at = time.monotonic() + self.limiter.failed(backlog, error, f"the UserBacklog {name}")

    async def _retry_conflicts(self, backlog: Backlog) -> None:
        """Write. If somebody else has changed the object, read it and write again. Raises Lost or ApiError."""
        for left in reversed(range(TRIES)):
            try:
                return await self._attempt(backlog)
            except (AlreadyExists, Conflict, NotFound):
                if not left:
                    raise
                await self._read(backlog)

    def _worked(self, backlog: Backlog) -> None:
        for other in self.limiter.succeeded(backlog):
            assert isinstance(other, Backlog)
            other.retry_at = 0.0

    async def _read(self, backlog: Backlog) -> None:
        """Raises ApiError."""
        try:
            body = await self._cluster.get(BACKLOGS, self._stream.namespace, self._name(backlog))
        except NotFound:
            body = None
        self.observe(backlog, body)

    async def _attempt(self, backlog: Backlog) -> None:
        """Raises Lost where it is not to be written now, or not by this replica any more."""
        while self._uncertain(backlog):
            for queue in list(backlog.queues.values()):
                await self._partitions.wait_held(queue.partition)
        # Records of a deleted topic may have been loaded meanwhile: the object lists them until they are rejected.
        if backlog.expired or not self._cache.has(backlog):
            raise Lost
        write: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writes.add(write)
        try:
            await self._write_changes(backlog)
        finally:
            self._writes.discard(write)
            write.set_result(None)

    def _uncertain(self, backlog: Backlog) -> bool:
        """Some partition of it may be another replica's by now: its time may end while another one is waited for."""
        now = time.monotonic()
        partitions = [queue.partition for queue in backlog.queues.values()]
        return any(partition.revoked or partition.held_until <= now for partition in partitions)

    async def _write_changes(self, backlog: Backlog) -> None:
        if self._cache.waited_for(backlog) and not backlog.unwritten and backlog.removed_at is None:
            await self._read(backlog)
            return
        others = self._others(backlog)
        if not backlog.count and not others:
            return await self._remove(backlog)
        entries = others + [self._entry(queue) for queue in backlog.queues.values() if len(queue.offsets)]
        writing, backlog.unwritten = backlog.unwritten, []
        backlog.appended_at = backlog.removed_at = None
        self._account(entries)
        failpoints.evaluate("bridge.backlog")
        try:
            body = await self._write(backlog, entries)
        except BaseException:
            backlog.unwritten = [entry for entry in writing if not entry[0].revoked] + backlog.unwritten
            backlog.appended_at = backlog.removed_at = time.monotonic()
            raise
        failpoints.evaluate("bridge.backlogged")
        self._worked(backlog)
        self._cache.written(writing)
        self.observe(backlog, body)
        self._cache.discard(backlog)  # where only other replicas' entries are left

    async def _write(self, backlog: Backlog, entries: list[Body]) -> Body:
        if backlog.body is None:
            return await self._cluster.create(BACKLOGS, self._stream.namespace, self._manifest(backlog, entries))
        if "deletionTimestamp" in backlog.body["metadata"] and not has_finalizer(backlog.body):
            # The object may vanish at any moment, with all that is written into it, and it takes no finalizer any more.
            kept = ", ".join(other_finalizers(backlog.body))
            raise Conflict(f"{self._name(backlog)} is being deleted, and kept by finalizers of others: {kept}")
        # A person may have removed the finalizer: the patch adds it again.
        patch = {"metadata": with_finalizer(backlog.body), "spec": {"partitions": entries}}
        return await self._cluster.patch(BACKLOGS, self._stream.namespace, self._name(backlog), patch)

    async def _remove(self, backlog: Backlog) -> None:
        """Delete the object, then remove the finalizer. A crash in between leaves an empty one to be removed later."""
        if backlog.body is not None:
            failpoints.evaluate("bridge.backlog-remove")
            await self._release(backlog, await self._delete(backlog, backlog.body))
            self._worked(backlog)
        self.observe(backlog, None)
        self._cache.discard(backlog)

    async def _delete(self, backlog: Backlog, body: Body) -> Body:
        metadata = body["metadata"]
        if "deletionTimestamp" in metadata:
            return body
        version = int(metadata["resourceVersion"])
        name = self._name(backlog)
        return await self._cluster.delete(BACKLOGS, self._stream.namespace, name, metadata["uid"], version)

    async def _release(self, backlog: Backlog, body: Body) -> None:
        if not has_finalizer(body):
            return
        failpoints.evaluate("bridge.backlog-release")
        # Finalizers of others may keep it for long. So it is emptied too: what it lists would not be collected, and
        # would run again after a restart.
        patch = {"metadata": without_finalizer(body), "spec": {"partitions": []}}
        try:
            await self._cluster.patch(BACKLOGS, self._stream.namespace, self._name(backlog), patch)
        except NotFound:
            pass

    def _others(self, backlog: Backlog) -> list[Body]:
        """Entries of partitions that are not in the cache, as last read: another replica's, or not loaded yet.

        An entry of a deleted topic is left out once its RejectedEvent is written.
        """
        if backlog.body is None:
            return []
        loaded = {partition.number for partition in self._partitions if partition.backlogs_loaded}
        entries = backlog.body["spec"].get("partitions") or ()
        return [entry for entry in entries if responsible_partition(entry, self._topic) not in loaded]

    def _manifest(self, backlog: Backlog, entries: list[Body]) -> Body:
        return user_backlog.manifest(self._stream.namespace, self._stream.name, backlog.user, entries)

    def _entry(self, queue: PartitionQueue) -> dict[str, Any]:
        return user_backlog.entry(self._topic.name, self._topic.id, queue.partition.number, queue.offsets)

    def _name(self, backlog: Backlog) -> str:
        return names.backlog_name(self._stream.name, backlog.user)

    def _account(self, entries: list[Body]) -> None:
        """The next write of any backlog waits until RATE allows it after this one."""
        size = len(orjson.dumps(entries)) + OBJECT_OVERHEAD
        metrics.BACKLOG_BYTES.labels(*self._context.stream_labels).inc(size)
        self._next_write_at = max(self._next_write_at, time.monotonic()) + size / RATE


def responsible_partition(entry: Body, topic: Topic) -> int:
    """The partition whose replica looks after an entry. A deleted topic may have had more partitions."""
    number: int = entry["partition"]
    return number if entry["topicId"] == topic.id else number % topic.partitions


# The bridge's finalizer of a UserBacklog. Others may have theirs beside it, and a merge patch replaces the whole list:
# so each patch carries the version of the object whose list was read.


def has_finalizer(body: Body) -> bool:
    return names.BACKLOG_FINALIZER in (body["metadata"].get("finalizers") or ())


def other_finalizers(body: Body) -> list[str]:
    """Finalizers of others, in their order."""
    return [entry for entry in body["metadata"].get("finalizers") or () if entry != names.BACKLOG_FINALIZER]


def with_finalizer(body: Body) -> dict[str, Any]:
    """`metadata` of a patch that adds the bridge's finalizer where it is missing."""
    metadata = {"resourceVersion": body["metadata"]["resourceVersion"]}
    if has_finalizer(body):
        return metadata
    return metadata | {"finalizers": [*other_finalizers(body), names.BACKLOG_FINALIZER]}


def without_finalizer(body: Body) -> dict[str, Any]:
    """`metadata` of a patch that removes the bridge's finalizer."""
    return {"resourceVersion": body["metadata"]["resourceVersion"], "finalizers": other_finalizers(body) or None}
