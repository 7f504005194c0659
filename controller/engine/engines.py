"""An engine for each UpdateStream, and the updates whose stream is missing."""

from __future__ import annotations

import asyncio
import logging

from controller.cluster import Body, Cluster
from controller.downstream import Downstream
from controller.engine.engine import Engine
from controller.engine.orphans import Orphans
from controller.logs import fields
from controller.streams import UpdateStream

logger = logging.getLogger(__name__)


class Engines:
    """Starts, reconfigures and stops engines as the watch shows streams; hands them the updates it shows."""

    def __init__(self, cluster: Cluster, downstream: Downstream, identity: str) -> None:
        self._cluster = cluster
        self._downstream = downstream
        self._identity = identity
        self._engines: dict[tuple[str, str], Engine] = {}
        self._streams: dict[tuple[str, str], UpdateStream] = {}
        self._orphans = Orphans(cluster, self._streams)
        self._stops: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then all engines end, and give their Leases away."""
        orphans = asyncio.get_running_loop().create_task(self._orphans.run())
        await stop.wait()
        orphans.cancel()
        await asyncio.gather(*(engine.stop() for engine in self._engines.values()), *self._stops)

    def observe_stream(self, kind: str | None, body: Body) -> None:
        metadata = body["metadata"]
        key = (metadata["namespace"], metadata["name"])
        if kind == "DELETED":
            self._remove(key)
            return
        try:
            stream = UpdateStream.from_body(body)
        except (KeyError, ValueError, TypeError) as error:
            logger.error("UpdateStream not understood", extra=fields(stream="/".join(key), cause=repr(error)))
            return
        known = self._streams.get(key)
        self._streams[key] = stream
        if known is None:
            logger.info("Stream started", extra=fields(stream="/".join(key)))
            self._engines[key] = Engine(self._cluster, self._downstream, stream, self._identity)
            self._engines[key].start()
        elif known != stream:
            logger.info("Stream changed", extra=fields(stream="/".join(key), generation=stream.generation))
            self._engines[key].reconfigure(stream)

    def observe_update(self, kind: str | None, body: Body) -> None:
        key = (body["metadata"]["namespace"], body["spec"]["stream"])
        if engine := self._engines.get(key):
            engine.observe(kind, body)
        elif kind != "DELETED":
            self._orphans.notice(key)

    def _remove(self, key: tuple[str, str]) -> None:
        self._streams.pop(key, None)
        if engine := self._engines.pop(key, None):
            logger.info("Stream gone: its updates wait", extra=fields(stream="/".join(key)))
            task = asyncio.get_running_loop().create_task(self._end(key, engine))
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)

    async def _end(self, key: tuple[str, str], engine: Engine) -> None:
        await engine.stop()
        self._orphans.notice(key)
