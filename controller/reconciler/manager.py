"""Starts and stops the workers of all UpdateStreams, and passes events on to them.

The word is controller-runtime's: its manager runs the controllers of a process.
"""

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
from controller.reconciler.lease_balancer import LeaseBalancer
from controller.reconciler.lease_gc import delete_leases_without_stream
from controller.reconciler.lease_watch import LeaseWatch
from controller.reconciler.metadata_watch import MetadataWatch
from controller.reconciler.orphans import Orphans
from controller.reconciler.process_context import ProcessContext
from controller.reconciler.process_watch import ProcessWatch
from controller.reconciler.stream_worker import StreamWorker

logger = logging.getLogger(__name__)

#: Seconds for which kopf waits at the start, while the streams that there are begin.
HEAD_START_SECONDS = 5.0
POLL_SECONDS = 0.05
RETRY_SECONDS = 1.0
#: Seconds between lists of all streams.
SWEEP_SECONDS = 10.0
#: The same for a namespace that cannot be read.
UNREAD_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """A stream that this version does not understand: its updates wait."""

    uid: str
    version: int
    generation: int


class Manager:
    """Has a worker for each stream that the watch shows; passes on the updates that the watch shows."""

    def __init__(self, cluster: Cluster, downstream: Downstream, identity: str, namespace: str, scope: Scope) -> None:
        """`namespace` is that of this process, `scope` those of the streams."""
        #: The namespaces that can be read, for kopf to watch.
        self.namespaces = Namespaces(scope)
        self._cluster = cluster
        self._leases = LeaseWatch(cluster, scope)
        self._recorder = EventRecorder(cluster, "controller", identity)
        processes = ProcessWatch(cluster, namespace, scope)
        balancer = LeaseBalancer(identity, self._leases, processes)
        self._process = ProcessContext(cluster, downstream, identity, self._recorder, processes, balancer)
        self._metadata_watch = MetadataWatch(cluster, scope, self.observe_update, self._relist_all)
        self._workers: dict[tuple[str, str], StreamWorker] = {}
        self._streams: dict[tuple[str, str], UpdateStream] = {}
        self._unreadable: dict[tuple[str, str], _Unreadable] = {}
        self._orphans = Orphans(cluster, self._recorder, self._exists)
        #: resourceVersion of each stream, as it was seen last.
        self._versions: dict[tuple[str, str], int] = {}
        self._stopping = False
        #: Workers that are stopping: the next worker of the stream begins when their calls are over.
        self._ends: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._reports: set[asyncio.Task[None]] = set()

    def background(self) -> list[Callable[[], Awaitable[None]]]:
        """The functions that are to run in the background, for ever."""
        return [
            self._leases.follow,
            self._process.processes.follow,
            partial(self._process.balancer.run, self._hand_over),
            self._sweep,
            self._metadata_watch.follow,
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Wait for `stop`; then stop all workers, which release their Leases."""
        await stop.wait()
        self._stopping = True
        self._orphans.stop()
        for report in self._reports:
            report.cancel()
        await asyncio.gather(*(worker.stop() for worker in self._workers.values()), *self._ends.values())

    def pending(self) -> list[str]:
        """Streams with a Lease that is neither held here nor seen to be held by another controller yet."""
        return [names.namespaced_name(*key) for key, worker in self._workers.items() if not worker.ready]

    async def begin(self) -> None:
        """List the streams and start their workers, without kopf: kopf takes seconds for ten thousand updates.

        The first call returns when this controller works on each stream or stands by, after HEAD_START_SECONDS at most.
        """
        first = not self._streams
        while not self._stopping:
            listings = await self._list_streams()
            if self.namespaces.answered(listings):
                break
            await asyncio.sleep(RETRY_SECONDS)  # nothing can be read: kopf could not watch either
        if self._stopping:
            return
        for namespace, listing in listings.items():
            self._remove_missing(namespace, listing)
            for body in listing.items:
                self.observe_stream(None, body)
        late = time.monotonic() + HEAD_START_SECONDS
        while first and self.pending() and time.monotonic() < late and not self._stopping:
            await asyncio.sleep(POLL_SECONDS)

    async def _list_streams(self) -> dict[str | None, Listing]:
        """The streams of each namespace that can be listed."""
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
        """Remove streams that are not listed: kopf does not show what was deleted while it did not watch."""
        found = {body["metadata"]["uid"] for body in listing.items}
        known = [(key, stream.uid, self._versions[key]) for key, stream in self._streams.items()]
        known += [(key, unreadable.uid, unreadable.version) for key, unreadable in self._unreadable.items()]
        for key, uid, version in known:
            listed = self.namespaces.scope.of(key[0]) == namespace
            if listed and uid not in found and version <= listing.resource_version:
                self._remove(key, uid)

    async def _sweep(self) -> None:
        """List the streams again and again, for ever, and remove those that were deleted."""
        await for_each(self.namespaces.scope, self._sweep_one)

    async def _sweep_one(self, namespace: str | None) -> None:
        while True:
            seconds = SWEEP_SECONDS if namespace in self.namespaces.readable else UNREAD_SECONDS
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))
            if listing := await self._list(namespace, metadata_only=True):
                self._remove_missing(namespace, listing)
                leases = [entry for entry in self._leases.labelled if self.namespaces.scope.of(entry[0]) == namespace]
                await delete_leases_without_stream(self._cluster, leases, {object_key(body) for body in listing.items})

    async def _hand_over(self, count: int) -> list[Lease]:
        """Hand over `count` Leases at most: first those of streams with most shards here, then with least work."""
        loads = [(worker, worker.load) for stream_worker in self._workers.values() for worker in stream_worker.workers]
        free = sorted(
            ((-worker.lease.siblings_taken, load, worker) for worker, load in loads if load is not None),
            key=lambda entry: entry[:2],
        )
        chosen = [worker for _, _, worker in free[:count]]
        given = await asyncio.gather(*(worker.hand_over() for worker in chosen))
        return [worker.lease for worker, done in zip(chosen, given, strict=True) if done]

    def observe_stream(self, kind: str | None, body: Body) -> None:
        """Events of one stream come in order. Those of a stream and of a deleted one of the same name may not."""
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
                return  # an event of kopf's from before a list of ours
            self._observe_spec(key, known, body)
            if worker := self._workers.get(key):
                worker.observe_stream(body)
            if kind is None and known and (worker := self._workers.get(key)):
                worker.relist()

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
                self._set_restored(key, stream)
        elif known is None or known.restored:
            logger.info("Stream started", extra=fields(stream="/".join(key)))
            self._start(key, stream)
        elif known.shards != stream.shards:
            logger.info("Stream divided anew", extra=fields(stream="/".join(key), shards=stream.shards))
            self._stop(key)
            self._start(key, stream)
        elif known != stream:
            logger.info("Stream changed", extra=fields(stream="/".join(key), generation=stream.generation))
            self._workers[key].reconfigure(stream)

    def _set_restored(self, key: tuple[str, str], stream: UpdateStream) -> None:
        """Stop work on a restored stream, and report that, until a person removes the annotation."""
        logger.warning("Stream was restored from a copy: it is not worked on", extra=fields(stream="/".join(key)))
        if key in self._workers:
            self._stop(key)
        self._report(key, report_restored(self._cluster, self._recorder, stream))

    def _set_unreadable(self, key: tuple[str, str], body: Body, error: Exception) -> None:
        """Stop work on the stream: its earlier spec may allow what the new one forbids.

        This is reported once for each spec: a newer controller may work on the stream beside this one, and report
        otherwise.
        """
        metadata = body["metadata"]
        before, version = self._unreadable.get(key), int(metadata["resourceVersion"])
        if before and version < before.version:
            return
        now = _Unreadable(metadata["uid"], version, metadata.get("generation", 0))
        self._unreadable[key] = now
        if key in self._streams:
            del self._streams[key], self._versions[key]
            if key in self._workers:
                self._stop(key)
        if before is None or (before.uid, before.generation) != (now.uid, now.generation):
            logger.error(
                "UpdateStream not understood: its updates wait. Upgrade the controller, or change it back",
                extra=fields(stream="/".join(key), cause=repr(error)),
            )
            self._report(key, report_unreadable(self._cluster, self._recorder, "Processing", body, error))

    def _report(self, key: tuple[str, str], report: Coroutine[Any, Any, None]) -> None:
        """Write a condition in the background, after the worker that is stopping, which may write a condition, too."""

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
        self._workers[key] = StreamWorker(self._process, stream, gone)
        self._workers[key].start(self._ends.get(key))

    def observe_update(self, kind: str | None, body: Body) -> None:
        key = (body["metadata"]["namespace"], body["spec"]["stream"])
        if worker := self._workers.get(key):
            worker.observe(kind, body)
        elif kind != "DELETED":
            self._orphans.add(key)

    def _exists(self, stream: tuple[str, str]) -> bool:
        """Whether there is such a stream, or may be one. Where its namespace cannot be read, kopf lists it later."""
        return not self.namespaces.reads(stream[0]) or stream in self._streams or stream in self._unreadable

    def _relist_all(self) -> None:
        for worker in self._workers.values():
            worker.relist_all()

    def _remove(self, key: tuple[str, str], uid: str) -> None:
        """The stream with that uid was deleted. The watch shows that, or a worker finds it: a watch may miss it."""
        if (unreadable := self._unreadable.get(key)) and unreadable.uid == uid:
            del self._unreadable[key]
            self._forget_metrics(key)
            self._orphans.add(key)
        stream = self._streams.get(key)
        if stream is None or stream.uid != uid:
            return
        logger.info("Stream gone: its updates wait", extra=fields(stream="/".join(key)))
        del self._streams[key], self._versions[key]
        if key in self._workers:
            self._stop(key)
        else:  # it was restored, and never worked on
            self._forget_metrics(key)
            self._orphans.add(key)

    def _stop(self, key: tuple[str, str]) -> None:
        end = asyncio.get_running_loop().create_task(self._end(key, self._workers.pop(key), self._ends.get(key)))
        self._ends[key] = end
        end.add_done_callback(partial(self._ended, key))

    async def _end(self, key: tuple[str, str], worker: StreamWorker, before: asyncio.Task[None] | None) -> None:
        await worker.stop()
        if before:
            await asyncio.wait([before])
        self._orphans.add(key)

    def _ended(self, key: tuple[str, str], end: asyncio.Task[None]) -> None:
        if self._ends.get(key) is end:
            del self._ends[key]
            self._forget_metrics(key)

    def _forget_metrics(self, key: tuple[str, str]) -> None:
        """Remove the series of a stream that is not worked on any more, or never was, once all has been counted."""
        if key not in self._streams and key not in self._ends:
            metrics.forget(*key)
