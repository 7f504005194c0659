"""An engine for each UpdateStream, and the updates whose stream is missing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from controller import errors
from controller.api import NOT_UNDERSTOOD, names
from controller.api.update_stream import UpdateStream
from controller.clients.adoption import report_restored
from controller.clients.cluster import STREAMS, Body, Cluster, Listing, object_key
from controller.clients.downstream import Downstream
from controller.clients.event_recorder import EventRecorder
from controller.clients.namespaces import Namespaces, for_each
from controller.clients.stream_status import report_unreadable
from controller.config import Scope
from controller.logs import fields, retrying
from controller.reconciler import metrics
from controller.reconciler.lease import Lease
from controller.reconciler.lease_watch import Leases
from controller.reconciler.leftovers import delete_leftovers
from controller.reconciler.orphans import Orphans
from controller.reconciler.parts import Parts
from controller.reconciler.sharing import Sharing
from controller.reconciler.signs import Signs
from controller.reconciler.unwatched import Unwatched

logger = logging.getLogger(__name__)

#: Seconds that kopf is held back while the streams that are there begin.
HEAD_START_SECONDS = 5.0
POLL_SECONDS = 0.05
RETRY_SECONDS = 1.0
#: Seconds between lists of the streams that are there.
SWEEP_SECONDS = 10.0
#: The same of a namespace that cannot be read.
UNREAD_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """A stream that this version does not understand: its updates wait."""

    uid: str
    version: int
    generation: int


class Engines:
    """Starts, reconfigures and stops engines as the watch shows streams; hands them the updates it shows."""

    def __init__(self, cluster: Cluster, downstream: Downstream, identity: str, namespace: str, scope: Scope) -> None:
        """`namespace`: that of this process; `scope`: those of the streams."""
        self._cluster = cluster
        self._downstream = downstream
        self._identity = identity
        #: What can be read, for kopf to watch.
        self.namespaces = Namespaces(scope)
        self._leases = Leases(cluster, scope)
        self._signs = Signs(cluster, namespace, scope)
        self._sharing = Sharing(identity, self._leases, self._signs)
        self._recorder = EventRecorder(cluster, "controller", identity)
        self._unwatched = Unwatched(cluster, scope, self.observe_update, self._doubt_all)
        self._engines: dict[tuple[str, str], Parts] = {}
        self._streams: dict[tuple[str, str], UpdateStream] = {}
        self._unreadable: dict[tuple[str, str], _Unreadable] = {}
        self._orphans = Orphans(cluster, self._recorder, self._exists)
        #: resourceVersion of each stream, as it was seen last.
        self._versions: dict[tuple[str, str], int] = {}
        self._stopping = False
        #: Engines on their way out: one that follows begins when the calls of the one before it are over.
        self._ends: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._reports: set[asyncio.Task[None]] = set()

    def works(self) -> list[Callable[[], Awaitable[None]]]:
        """What is to run beside the engines, for ever."""
        return [
            self._leases.follow,
            self._signs.follow,
            partial(self._sharing.run, self._give),
            self._sweep,
            self._unwatched.follow,
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then all engines end, and give their Leases away."""
        await stop.wait()
        self._stopping = True
        self._orphans.stop()
        for report in self._reports:
            report.cancel()
        await asyncio.gather(*(engine.stop() for engine in self._engines.values()), *self._ends.values())

    def unsettled(self) -> list[str]:
        """Streams whose Lease is neither held here nor seen in another's hands yet."""
        return [names.namespaced_name(*key) for key, engine in self._engines.items() if not engine.settled]

    async def begin(self) -> None:
        """Begin with the streams that are there, without kopf: it takes seconds for ten thousand updates.

        The first time it returns when each of them works or stands by, at the latest after HEAD_START_SECONDS.
        """
        first = not self._streams
        while not self._stopping:
            listings = await self._list_streams()
            if self.namespaces.answered(listings):
                break
            await asyncio.sleep(RETRY_SECONDS)  # who knows of no stream is not ready: kopf could not watch them either
        if self._stopping:
            return
        for namespace, listing in listings.items():
            self._remove_missing(namespace, listing)
            for body in listing.items:
                self.observe_stream(None, body)
        late = time.monotonic() + HEAD_START_SECONDS
        while first and self.unsettled() and time.monotonic() < late and not self._stopping:
            await asyncio.sleep(POLL_SECONDS)

    async def _list_streams(self) -> dict[str | None, Listing]:
        """Of each namespace that answers."""
        each = self.namespaces.scope.each
        found = await asyncio.gather(*(self._list(namespace) for namespace in each))
        return {namespace: listing for namespace, listing in zip(each, found, strict=True) if listing}

    async def _list(self, namespace: str | None, *, metadata_only: bool = False) -> Listing | None:
        try:
            listing = await self._cluster.list(STREAMS, namespace, metadata_only=metadata_only)
        except errors.ApiError as error:
            if not self.namespaces.failed(namespace, error):
                retrying(logger, "Streams not listed, trying again", error)
            return None
        self.namespaces.listed(namespace)
        return listing

    def _remove_missing(self, namespace: str | None, listing: Listing) -> None:
        """kopf tells nothing of what was deleted while it did not watch."""
        found = {body["metadata"]["uid"] for body in listing.items}
        known = [(key, stream.uid, self._versions[key]) for key, stream in self._streams.items()]
        known += [(key, unreadable.uid, unreadable.version) for key, unreadable in self._unreadable.items()]
        for key, uid, version in known:
            listed = self.namespaces.scope.of(key[0]) == namespace
            if listed and uid not in found and version <= listing.resource_version:
                self._remove(key, uid)

    async def _sweep(self) -> None:
        """One list for all streams of a namespace, so that not each of them need be read to see that it is there."""
        await for_each(self.namespaces.scope, self._sweep_one)

    async def _sweep_one(self, namespace: str | None) -> None:
        while True:
            seconds = SWEEP_SECONDS if namespace in self.namespaces.readable else UNREAD_SECONDS
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))
            if listing := await self._list(namespace, metadata_only=True):
                self._remove_missing(namespace, listing)
                leases = [entry for entry in self._leases.labelled if self.namespaces.scope.of(entry[0]) == namespace]
                await delete_leftovers(self._cluster, leases, {object_key(body) for body in listing.items})

    async def _give(self, count: int) -> list[Lease]:
        """Give away at most so many; first of streams of which more shards are here, then where least goes on."""
        loads = [(engine, engine.load) for parts in self._engines.values() for engine in parts.engines]
        free = sorted(
            ((-engine.lease.crowding, load, engine) for engine, load in loads if load is not None),
            key=lambda entry: entry[:2],
        )
        chosen = [engine for _, _, engine in free[:count]]
        given = await asyncio.gather(*(engine.hand_over() for engine in chosen))
        return [engine.lease for engine, done in zip(chosen, given, strict=True) if done]

    def observe_stream(self, kind: str | None, body: Body) -> None:
        """Events of one stream come in order; of a stream and of the one of its name before it, they may not."""
        metadata = body["metadata"]
        key, version = (metadata["namespace"], metadata["name"]), int(metadata["resourceVersion"])
        known = self._streams.get(key)
        if known and known.uid != metadata["uid"] and self._versions[key] < version:
            self._remove(key, known.uid)
            known = None
        if kind == "DELETED":
            self._remove(key, metadata["uid"])
        elif known is None or known.uid == metadata["uid"]:
            if known and kind and version < self._versions[key]:
                return  # kopf's, from before a list of ours
            self._observe_spec(key, known, body)
            if engine := self._engines.get(key):
                engine.observe_stream(body)
            if kind is None and known and (engine := self._engines.get(key)):
                engine.doubt()

    def _observe_spec(self, key: tuple[str, str], known: UpdateStream | None, body: Body) -> None:
        try:
            stream = UpdateStream.from_body(body)
        except NOT_UNDERSTOOD as error:
            self._set_unreadable(key, body, error)
            return
        self._unreadable.pop(key, None)
        self._streams[key] = stream
        self._versions[key] = int(body["metadata"]["resourceVersion"])
        if stream.restored:
            if known is None or not known.restored:
                self._hold(key, stream)
        elif known is None or known.restored:
            logger.info("Stream started", extra=fields(stream="/".join(key)))
            self._start(key, stream)
        elif known.shards != stream.shards:
            logger.info("Stream divided anew", extra=fields(stream="/".join(key), shards=stream.shards))
            self._stop(key)
            self._start(key, stream)
        elif known != stream:
            logger.info("Stream changed", extra=fields(stream="/".join(key), generation=stream.generation))
            self._engines[key].reconfigure(stream)

    def _hold(self, key: tuple[str, str], stream: UpdateStream) -> None:
        """Nothing is done for a restored stream but to say so, until a person removes the annotation."""
        logger.warning("Stream was restored from a copy: it is not worked on", extra=fields(stream="/".join(key)))
        if key in self._engines:
            self._stop(key)
        self._report(key, report_restored(self._cluster, self._recorder, stream))

    def _set_unreadable(self, key: tuple[str, str], body: Body, error: Exception) -> None:
        """Stop work on the stream: by its earlier spec something might be done that the new one forbids.

        That is reported once for each spec: a newer controller may work on it beside this one and report otherwise.
        """
        metadata = body["metadata"]
        before, version = self._unreadable.get(key), int(metadata["resourceVersion"])
        if before and version < before.version:
            return
        now = _Unreadable(metadata["uid"], version, metadata.get("generation", 0))
        self._unreadable[key] = now
        if key in self._streams:
            del self._streams[key], self._versions[key]
            if key in self._engines:
                self._stop(key)
        if before is None or (before.uid, before.generation) != (now.uid, now.generation):
            logger.error(
                "UpdateStream not understood: its updates wait. Upgrade the controller, or change it back",
                extra=fields(stream="/".join(key), cause=repr(error)),
            )
            self._report(key, report_unreadable(self._cluster, self._recorder, "Processing", body, error))

    def _report(self, key: tuple[str, str], report: Coroutine[Any, Any, None]) -> None:
        """Write a condition in the background, after the engine before it, which may have something to say too."""

        async def written() -> None:
            if end := self._ends.get(key):
                await asyncio.wait([end])
            try:
                with contextlib.suppress(errors.NotFound):
                    await report
            finally:
                if key not in self._unreadable:
                    self._forget_metrics(key)

        task = asyncio.get_running_loop().create_task(written())
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    def _start(self, key: tuple[str, str], stream: UpdateStream) -> None:
        gone = partial(self._remove, key, stream.uid)
        parts = Parts(
            self._cluster,
            self._downstream,
            self._sharing,
            lambda: self._signs.no_bridge,
            self._recorder,
            stream,
            self._identity,
            gone,
        )
        self._engines[key] = parts
        parts.start(self._ends.get(key))

    def observe_update(self, kind: str | None, body: Body) -> None:
        key = (body["metadata"]["namespace"], body["spec"]["stream"])
        if engine := self._engines.get(key):
            engine.observe(kind, body)
        elif kind != "DELETED":
            self._orphans.notice(key)

    def _exists(self, stream: tuple[str, str]) -> bool:
        """Whether there is such a stream; there may be while its namespace is not read: kopf shows all again then."""
        return not self.namespaces.reads(stream[0]) or stream in self._streams or stream in self._unreadable

    def _doubt_all(self) -> None:
        for engine in self._engines.values():
            engine.doubt_all()

    def _remove(self, key: tuple[str, str], uid: str) -> None:
        """That very stream is gone: by the watch, or by an engine that found it so (a watch may miss a deletion)."""
        if (unreadable := self._unreadable.get(key)) and unreadable.uid == uid:
            del self._unreadable[key]
            self._forget_metrics(key)
            self._orphans.notice(key)
        stream = self._streams.get(key)
        if stream is None or stream.uid != uid:
            return
        logger.info("Stream gone: its updates wait", extra=fields(stream="/".join(key)))
        del self._streams[key], self._versions[key]
        if key in self._engines:
            self._stop(key)
        else:  # it was restored, and never worked on
            self._forget_metrics(key)
            self._orphans.notice(key)

    def _stop(self, key: tuple[str, str]) -> None:
        end = asyncio.get_running_loop().create_task(self._end(key, self._engines.pop(key), self._ends.get(key)))
        self._ends[key] = end
        end.add_done_callback(partial(self._ended, key))

    async def _end(self, key: tuple[str, str], engine: Parts, before: asyncio.Task[None] | None) -> None:
        await engine.stop()
        if before:
            await asyncio.wait([before])
        self._orphans.notice(key)

    def _ended(self, key: tuple[str, str], end: asyncio.Task[None]) -> None:
        if self._ends.get(key) is end:
            del self._ends[key]
            self._forget_metrics(key)

    def _forget_metrics(self, key: tuple[str, str]) -> None:
        """Of a stream that is not worked on any more, or never was, once all has been counted."""
        if key not in self._streams and key not in self._ends:
            metrics.forget(*key)
