"""All UpdateStreams: one Ingest for each, begun, changed and ended as the objects are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeAlias

from controller import logs
from controller.bridge import metrics
from controller.bridge.census import Census
from controller.bridge.controllers import Controllers
from controller.bridge.ingest import Ingest
from controller.bridge.orphans import release_orphans
from controller.bridge.reporting import Counts
from controller.cluster import BACKLOGS, REJECTED, STREAMS, Cluster, Listing
from controller.config import Settings
from controller.presence import Presence
from controller.reflector import reflect
from controller.serving import Health
from controller.streams import UpdateStream

logger = logging.getLogger(__name__)

#: So many streams may each fill the memory that one may use, 32 MiB; of more, each has an equal part of that.
FULL_SHARES = 3

#: Namespace, name, uid: a stream made anew under its old name is another one.
Key: TypeAlias = tuple[str, str, str]


async def run(settings: Settings, stop: asyncio.Event, health: Health) -> None:
    """Until `stop` is set; then all partitions are let go, with what is in flight acknowledged."""
    async with Cluster.connect() as cluster:
        presence = Presence(cluster, "bridge", settings.identity)
        streams = Streams(cluster, settings.identity, presence)
        health.unsettled = streams.unsettled
        works = [asyncio.create_task(work) for work in (presence.keep(), *streams.works(health))]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*works, stopping], return_when=asyncio.FIRST_COMPLETED)
            for work in works:
                if work.done():
                    work.result()
        finally:
            for task in (*works, stopping):
                task.cancel()
            await streams.close()
            await presence.leave()


class Streams:
    def __init__(self, cluster: Cluster, identity: str, presence: Presence) -> None:
        self._cluster = cluster
        self._identity = identity
        self._presence = presence
        self._controllers = Controllers(cluster)
        self._running: dict[Key, tuple[Ingest, asyncio.Task[None]]] = {}
        self._ending: dict[asyncio.Task[None], Key] = {}
        self._backlogs = Census(cluster, BACKLOGS)
        self._rejected = Census(cluster, REJECTED)
        self._listed = False

    def works(self, health: Health) -> list[Coroutine[Any, Any, None]]:
        """All that is to run."""
        orphans = release_orphans(self._cluster, self._backlogs, self._exists)
        controllers = self._controllers.follow(self._look_for_controllers)
        return [self.follow(health), self._backlogs.follow(), self._rejected.follow(), orphans, controllers]

    async def follow(self, health: Health) -> None:
        async for change in reflect(self._cluster, STREAMS):
            if isinstance(change, Listing):
                there = {_key(body): body for body in change.items}
                for key in self._running.keys() - there.keys():
                    self._end(key)
                for body in change.items:
                    self._put(body)
                for ingest, _ in self._running.values():
                    ingest.verify()
                self._listed = health.ready = True
            elif change.type == "DELETED":
                self._end(_key(change.object))
            elif change.type in ("ADDED", "MODIFIED"):
                self._put(change.object)

    def unsettled(self) -> list[str]:
        """Streams that are not assigned yet, for no reason that is known."""
        return [
            f"{namespace}/{name}" for (namespace, name, _), (ingest, _) in self._running.items() if not ingest.settled
        ]

    async def close(self) -> None:
        for key in list(self._running):
            self._end(key)
        if self._ending:
            await asyncio.wait(self._ending)

    def _exists(self, stream: tuple[str, str]) -> bool:
        """Whether there is such a stream; until they have been listed there may be."""
        return not self._listed or any(key[:2] == stream for key in self._running)

    def _put(self, body: dict[str, Any]) -> None:
        try:
            stream = UpdateStream.from_body(body)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            logger.error("UpdateStream cannot be read: %r", error)
            return
        key = _key(body)
        if key in self._running:
            self._running[key][0].change(stream)
            self._running[key][0].observe(body)
            return
        for other in [other for other in self._running if other[:2] == key[:2]]:
            self._end(other)
        logger.info("Stream begun", extra=logs.fields(stream=f"{stream.namespace}/{stream.name}"))
        ingest = Ingest(
            self._cluster, stream, self._identity, self._presence, lambda: self._counts(key[:2]), self._share
        )
        ingest.observe(body)
        before = [task for task, ended in self._ending.items() if ended[:2] == key[:2]]
        self._running[key] = ingest, asyncio.create_task(_run_after(before, ingest))

    def _look_for_controllers(self) -> None:
        for ingest, _ in self._running.values():
            ingest.miss_controllers(self._controllers.missing)

    def _ended(self, task: asyncio.Task[None]) -> None:
        namespace, name, _ = self._ending.pop(task)
        metrics.forget(namespace, name)

    def _counts(self, stream: tuple[str, str]) -> Counts:
        return Counts(overflowing=self._backlogs.count(stream), rejected=self._rejected.count(stream))

    def _share(self) -> float:
        return min(1.0, FULL_SHARES / max(len(self._running), 1))

    def _end(self, key: Key) -> None:
        """Objects stay: updates without their stream wait for it."""
        if key not in self._running:
            return
        _, task = self._running.pop(key)
        task.cancel()
        self._ending[task] = key
        task.add_done_callback(self._ended)
        namespace, name, _ = key
        logger.info("Stream ended", extra=logs.fields(stream=f"{namespace}/{name}"))


def _key(body: dict[str, Any]) -> Key:
    metadata = body["metadata"]
    return metadata["namespace"], metadata["name"], metadata["uid"]


async def _run_after(before: list[asyncio.Task[None]], ingest: Ingest) -> None:
    """A stream made anew has the group member's name of the one before it, which leaves first."""
    if before:
        await asyncio.wait(before)
    await ingest.run()
