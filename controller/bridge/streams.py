"""All UpdateStreams: each has a StreamConsumer, which begins, changes and ends with the object."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeAlias

from controller import logs
from controller.api import NOT_UNDERSTOOD, names
from controller.api.update_stream import UpdateStream
from controller.bridge import metrics
from controller.bridge.backlogs import release_orphans
from controller.bridge.context import BridgeContext
from controller.bridge.controllers import Controllers
from controller.bridge.object_counts import ObjectCounts
from controller.bridge.stream import StreamConsumer
from controller.clients.cluster import BACKLOGS, REJECTED, STREAMS, Cluster, Listing
from controller.clients.event_recorder import EventRecorder
from controller.clients.namespaces import Namespaces, for_each
from controller.clients.process_lease import ProcessLease
from controller.clients.reflector import reflect
from controller.clients.stream_status import NO_BRIDGE, condition, report_unreadable
from controller.config import Scope, Settings
from controller.errors import ApiError, NotFound
from controller.health import Health

logger = logging.getLogger(__name__)

#: Namespace, name, uid: a stream made anew under its old name is another one.
StreamKey: TypeAlias = tuple[str, str, str]


async def run(settings: Settings, stop: asyncio.Event, health: Health) -> None:
    """Run until `stop` is set. Then wait for the creates in flight, and give all partitions back to their groups."""
    async with Cluster.connect() as cluster:
        process_lease = ProcessLease(cluster, "bridge", settings.identity)
        context = BridgeContext(
            cluster,
            settings.identity,
            process_lease,
            EventRecorder(cluster, "bridge", settings.identity),
            ObjectCounts(cluster, BACKLOGS, settings.scope),
            ObjectCounts(cluster, REJECTED, settings.scope),
        )
        streams = Streams(context, settings.scope)
        health.pending, health.untrusted = streams.not_ready, lambda: cluster.trust.lost
        background = [asyncio.create_task(work) for work in (process_lease.run(), *streams.background(health))]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*background, stopping], return_when=asyncio.FIRST_COMPLETED)
            for work in background:
                if work.done():
                    work.result()
        finally:
            for task in (*background, stopping):
                task.cancel()
            await streams.close()
            await process_lease.release()


class Streams:
    """Begins, changes and ends the consumers of all streams in the scope, as the watch shows the objects."""

    def __init__(self, context: BridgeContext, scope: Scope) -> None:
        self._context = context
        self._scope = scope
        self._namespaces = Namespaces(scope)
        self._controllers = Controllers(context.cluster, scope)
        self._running: dict[StreamKey, tuple[StreamConsumer, asyncio.Task[None]]] = {}
        self._ending: dict[asyncio.Task[None], StreamKey] = {}
        #: The generation of each stream that this version does not understand, and so does not consume.
        self._unreadable: dict[StreamKey, int] = {}
        self._reports: set[asyncio.Task[None]] = set()

    def background(self, health: Health) -> list[Coroutine[Any, Any, None]]:
        """The coroutines that are to run until the process stops."""
        context = self._context
        orphans = release_orphans(context, self._exists)
        controllers = self._controllers.follow(self._look_for_controllers)
        return [self.follow(health), context.backlogs.follow(), context.rejected.follow(), orphans, controllers]

    async def follow(self, health: Health) -> None:
        await for_each(self._scope, partial(self._follow, health))

    async def _follow(self, health: Health, namespace: str | None) -> None:
        def failed(error: ApiError) -> None:
            self._namespaces.failed(namespace, error)
            health.ready |= self._namespaces.answered(self._namespaces.readable)

        async for change in reflect(self._context.cluster, STREAMS, namespace, failed=failed):
            if isinstance(change, Listing):
                self._observe_all(namespace, change.items)
                self._namespaces.listed(namespace)
                health.ready |= self._namespaces.answered(self._namespaces.readable)
            elif change.type == "DELETED":
                self._forget(_key(change.object))
            elif change.type in ("ADDED", "MODIFIED"):
                self._put(change.object)

    def _observe_all(self, namespace: str | None, bodies: list[dict[str, Any]]) -> None:
        there = {_key(body) for body in bodies}
        known = {key for key in (*self._running, *self._unreadable) if self._scope.of(key[0]) == namespace}
        for key in known - there:
            self._forget(key)
        for body in bodies:
            self._put(body)
        for key, (consumer, _) in self._running.items():
            if key in there:
                consumer.verify()

    def not_ready(self) -> list[str]:
        """Streams that have no assignment yet, and no condition that says why."""
        return [
            names.namespaced_name(namespace, name)
            for (namespace, name, _), (consumer, _) in self._running.items()
            if not consumer.ready
        ]

    async def close(self) -> None:
        for report in self._reports:
            report.cancel()
        for key in list(self._running):
            self._end(key)
        if self._ending:
            await asyncio.wait(self._ending)

    def _exists(self, stream: tuple[str, str]) -> bool:
        """Whether there is such a stream, or may be, as its namespace cannot be read."""
        there = (*self._running, *self._unreadable)
        return not self._namespaces.reads(stream[0]) or any(key[:2] == stream for key in there)

    def _put(self, body: dict[str, Any]) -> None:
        key = _key(body)
        try:
            stream = UpdateStream.from_body(body)
        except NOT_UNDERSTOOD as error:
            self._set_unreadable(key, body, error)
            return
        self._unreadable.pop(key, None)
        if key in self._running:
            self._running[key][0].change(stream)
            self._running[key][0].observe(body)
            return
        self._end_all(key)
        logger.info("Stream begun", extra=logs.fields(stream=stream.namespaced_name))
        consumer = StreamConsumer(self._context, stream)
        consumer.observe(body)
        self._running[key] = consumer, asyncio.create_task(_run_after(self._tasks_ending(key), consumer))
        self._context.streams = len(self._running)

    def _set_unreadable(self, key: StreamKey, body: dict[str, Any], error: Exception) -> None:
        """Stop work on a stream that this version does not understand: its spec may forbid what the one before allowed.

        Report it once for each spec, and again where the controller says that no bridge lives: a newer bridge may work
        on the stream beside this one, and its condition stays.
        """
        generation = body["metadata"].get("generation", 0)
        known, self._unreadable[key] = self._unreadable.get(key), generation
        self._end_all(key)
        known_condition = condition(body.get("status") or {}, "Consuming")
        unseen = (
            known_condition is not None
            and known_condition["reason"] == NO_BRIDGE
            and not self._context.process_lease.trouble
        )
        if known != generation or unseen:
            namespace, name, _ = key
            logger.error(
                "UpdateStream not understood: %r",
                error,
                extra=logs.fields(stream=names.namespaced_name(namespace, name)),
            )
            report = asyncio.create_task(self._report_unreadable(key, body, error))
            self._reports.add(report)
            report.add_done_callback(self._reports.discard)

    async def _report_unreadable(self, key: StreamKey, body: dict[str, Any], error: Exception) -> None:
        if before := self._tasks_ending(key):
            await asyncio.wait(before)  # so that what they still report comes before this
        try:
            with contextlib.suppress(NotFound):
                await report_unreadable(self._context.cluster, self._context.recorder, "Consuming", body, error)
        finally:
            self._forget_refusals(key)

    def _look_for_controllers(self, namespace: str | None) -> None:
        """Check the streams of the namespace whose Leases were read just now: those of others may be out of date."""
        for key, (consumer, _) in self._running.items():
            if self._scope.of(key[0]) == namespace:
                consumer.check_controllers(self._controllers)

    def _ended(self, task: asyncio.Task[None]) -> None:
        namespace, name, _ = self._ending.pop(task)
        metrics.forget(namespace, name)  # a stream of the same name waits for this end before it has any

    def _forget_refusals(self, key: StreamKey) -> None:
        """Remove the metrics of a stream that was not understood and is gone."""
        there = (*self._running, *self._unreadable, *self._ending.values())
        if not any(other[:2] == key[:2] for other in there):
            metrics.forget(*key[:2])

    def _forget(self, key: StreamKey) -> None:
        """The stream was deleted."""
        self._unreadable.pop(key, None)
        if key in self._running:
            self._running[key][0].report_deleted()
        self._end(key)
        self._forget_refusals(key)

    def _tasks_ending(self, key: StreamKey) -> list[asyncio.Task[None]]:
        """The tasks of all streams that have had that name."""
        return [task for task, ended in self._ending.items() if ended[:2] == key[:2]]

    def _end_all(self, key: StreamKey) -> None:
        """End all streams that have had that name."""
        for other in [other for other in self._running if other[:2] == key[:2]]:
            self._end(other)

    def _end(self, key: StreamKey) -> None:
        """End one stream. Its objects stay: updates wait for their stream."""
        if key not in self._running:
            return
        _, task = self._running.pop(key)
        self._context.streams = len(self._running)
        task.cancel()
        self._ending[task] = key
        task.add_done_callback(self._ended)
        namespace, name, _ = key
        logger.info("Stream ended", extra=logs.fields(stream=names.namespaced_name(namespace, name)))


def _key(body: dict[str, Any]) -> StreamKey:
    metadata = body["metadata"]
    return metadata["namespace"], metadata["name"], metadata["uid"]


async def _run_after(before: list[asyncio.Task[None]], consumer: StreamConsumer) -> None:
    """Run once the streams of the same name have ended: their member of the group has the same name."""
    if before:
        await asyncio.wait(before)
    await consumer.run()
