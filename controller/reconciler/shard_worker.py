"""The work on one shard of a stream: hold its Lease, list its updates, and run a worker for each of its users.

`stream_worker` brings the events of the watch; `user_worker` calls the downstreams. Nothing is called before the Lease
is held and everything unfinished has been listed; nothing new begins once the Lease is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import replace

from controller import errors, failpoints
from controller.api.update_stream import UpdateStream
from controller.api.user_update import UserUpdate, unfinished_selector
from controller.api.user_update_status import Phase
from controller.clients.adoption import adopt
from controller.clients.cluster import UPDATES, Body
from controller.core.sharding import Shard
from controller.core.step_health import StepHealth
from controller.logs import retrying
from controller.reconciler import metrics
from controller.reconciler.cache import Cache
from controller.reconciler.context import ShardContext, StreamContext
from controller.reconciler.lease import Lease
from controller.reconciler.lease_balancer import KEPT_SECONDS
from controller.reconciler.refusal_writer import RefusalWriter
from controller.reconciler.resync import Resync
from controller.reconciler.retention import Collector
from controller.reconciler.stream_report import report, report_refused
from controller.reconciler.supervisor import keep_running
from controller.reconciler.update_reader import parse
from controller.reconciler.user_worker import UserWorker

logger = logging.getLogger(__name__)

#: Seconds between consistent lists, which find what a watch has missed: kopf reports no deletions that happened before
#: it has listed again.
RELIST_SECONDS = 120.0
#: Updates in a page of such a list.
LIST_PAGE = 250
#: Seconds until what the API server has refused is tried again.
RETRY_SECONDS = 1.0
#: Seconds for which calls in flight may go on when the process stops: a successor waits for them.
DRAIN_SECONDS = 1.0
PRUNE_SECONDS = 5.0


class ShardWorker:
    """Works on one shard while this controller holds the shard's Lease, and stands by while another one does."""

    def __init__(self, shared: StreamContext, stream: UpdateStream, shard: Shard, on_gone: Callable[[], None]) -> None:
        """`on_gone` is called when the stream is found to be deleted."""
        lease = Lease(shared.process, stream, shard, shared.leases)
        self._context = ShardContext(
            shared=shared, shard=shard, lease=lease, stream=stream, on_finished=self._on_finished
        )
        self._context.reconfigure(stream)
        self._cache = Cache(self._new_worker)
        self._refusals = RefusalWriter(self._context)
        self._collector = Collector(self._context, self._refusals)
        self._on_gone = on_gone
        self._gauges = metrics.ShardGauges()
        self._relist_wanted = asyncio.Event()
        self._resync = Resync(lambda: self._cache.workers)
        #: Whether workers may begin calls: the Lease is held, and everything has been listed.
        self._open = False
        #: The Lease is about to be handed over. Events still count, as a call that does not end keeps the Lease here.
        self._handing_over = False
        self._begun = False
        #: The last event of each object, by uid, while the first list is under way; None while no such list is.
        self._early_events: dict[str, tuple[str | None, Body]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._halting = asyncio.Lock()
        #: When (monotonic) the Lease could last not be handed over, as calls did not end.
        self._kept_since = float("-inf")
        self._looks: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether this controller works on the shard, has seen that another one does, or reports why nobody can."""
        return self._begun or self._context.lease.held_elsewhere or bool(self._context.lease.refused)

    def start(self, after: asyncio.Task[None] | None) -> None:
        """Begin, at once or when `after` is done."""
        self._task = asyncio.get_running_loop().create_task(self._run(after))

    async def stop(self) -> None:
        """Let calls in flight end, within a second; write their outcomes; release the Lease."""
        self._ended = True
        await self._halt()

    async def _halt(self) -> None:
        async with self._halting:
            self._open = False
            for worker in self._cache.workers:
                worker.close()
            if self.lease.held:
                await self._drain()
            if self._task:
                self._task.cancel()
                await asyncio.wait([self._task])
            self._cache.clear()
            self._refusals.clear()
            self._gauges.clear()
            await self.lease.release()

    @property
    def lease(self) -> Lease:
        """The shard's Lease."""
        return self._context.lease

    @property
    def load(self) -> tuple[int, int] | None:
        """Users who are worked on now, and all users; None where the Lease is not to be handed over now."""
        if not self._open or not self.lease.held or time.monotonic() - self._kept_since < KEPT_SECONDS:
            return None
        workers = self._cache.workers
        return sum(worker.running for worker in workers), len(workers)

    async def hand_over(self) -> bool:
        """Release the Lease for another controller, and stand by. Returns whether that was done.

        No call is cut off for that, and none is repeated: where calls in flight do not end within a second, the work
        goes on here as before.
        """
        tenure, self._open, self._handing_over = self.lease.tenure, False, True
        stay_closed = {worker for worker in self._cache.workers if worker.closed}
        for worker in self._cache.workers:
            worker.close()
        drained = await self._drain()
        self._handing_over = False
        if not drained or any(worker.unrecorded for worker in self._cache.workers):
            self._kept_since = time.monotonic()
            if self.lease.held and self.lease.tenure == tenure and not self._ended:
                self._reopen(stay_closed)
            return False
        await self._halt()
        if self._ended:
            return False
        self.lease.leave_to_others()
        self.start(None)
        return True

    def reconfigure(self, stream: UpdateStream) -> None:
        """Act by a changed spec, at once."""
        self._context.reconfigure(stream)
        self._resync.request()

    def relist(self) -> None:
        """List again: a watch that begins anew does not show what was deleted meanwhile."""
        self._relist_wanted.set()

    def relist_finished(self) -> None:
        """List finished updates again, too."""
        self._collector.relist()

    def observe(self, kind: str | None, body: Body) -> None:
        """Take in an event of the watch. DELETED may also mean that the update's phase left the watch's selector."""
        if kind is None:
            self.relist()
        if self._early_events is None and not (self._open or self._handing_over):
            return
        if kind != "DELETED":
            self._check_label(body)
        if self._early_events is not None:
            self._early_events[body["metadata"]["uid"]] = (kind, body)
        elif kind == "DELETED":
            self._observe_gone(body)
        else:
            self._merge(parse(body))

    def _merge(self, update: UserUpdate) -> None:
        self._cache.merge(update)
        if update.status.finished:
            self._collector.add(update)

    def _observe_gone(self, body: Body) -> None:
        """The update was deleted, or has another phase now, by a write of ours or of somebody else: read it."""
        metadata = body["metadata"]
        worker = self._cache.worker(body["spec"]["user"])
        known = worker.queue.get(metadata["name"]) if worker else None
        if worker is None or known is None or known.resource_version >= int(metadata["resourceVersion"]):
            return  # mostly an event of our own write
        update = parse(body)
        if update.status.phase in (None, Phase.WAITING):  # the watch would go on showing it
            update = replace(update, deleted=True)
        if not worker.has_in_hand(update):
            self._look_up(known)

    def _look_up(self, known: UserUpdate) -> None:
        look = asyncio.get_running_loop().create_task(self._look(known))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _look(self, update: UserUpdate) -> None:
        try:
            body = await self._context.cluster.get(UPDATES, update.namespace, update.name)
        except errors.NotFound:
            self._cache.forget(update)
        except errors.ApiError as error:
            retrying(logger, "Update not read; the next list will tell", error)
        else:
            self._check_label(body)
            self._merge(parse(body))

    async def _run(self, after: asyncio.Task[None] | None) -> None:
        """Run all work of the shard until cancelled. After an unexpected error it begins anew, with the same Lease."""
        if after:
            await asyncio.wait([after])
        async with asyncio.TaskGroup() as group:
            for work in (
                self._context.lease.keep,
                self._work,
                self._resync.run,
                self._follow_secrets,
                self._relist_again,
                self._prune,
                self._collector.run,
                self._report,
                self._report_refused,
            ):
                group.create_task(keep_running(work, stream=self._context.stream.name))

    async def _work(self) -> None:
        """Work through one tenure of the Lease after another.

        A Lease that lapsed, and that nobody else has held since, keeps its tenure: the outcomes in memory are written.
        """
        lease, known = self._context.lease, 0
        while True:
            await lease.wait_held()
            tenure = lease.tenure
            if tenure != known:
                known = tenure
                self._cache.clear()
                self._refusals.clear()
                self._collector.clear()
                self._context.health = StepHealth()
            await self._begin(tenure)
            held = metrics.LEASE_HELD.labels(*self._context.stream_labels)
            self._gauges.set(held, 1)
            await lease.wait_lapsed(tenure)
            self._gauges.clear()
            self._open = False
            for worker in self._cache.workers:
                worker.close()
                worker.cut()

    async def _begin(self, tenure: int) -> None:
        """List everything before any work. Events that come meanwhile are merged after the list."""
        self._early_events = {}
        while self._context.lease.tenure == tenure and not (await self._adopt() and await self._list(whole=True)):
            await asyncio.sleep(RETRY_SECONDS)
        failpoints.evaluate("controller.listed")
        early, self._early_events = self._early_events, None
        if self._context.lease.tenure != tenure:
            return
        self._reopen()
        for kind, body in early.values():
            self.observe(kind, body)

    async def _adopt(self) -> bool:
        """Write the annotation by which a restored copy is recognized, before any call. Returns whether it is there."""
        try:
            await adopt(self._context.cluster, self._context.stream)
        except errors.ApiError as error:
            retrying(logger, "Stream not adopted, trying again", error)
            return False
        return True

    def _reopen(self, closed: Set[UserWorker] = frozenset()) -> None:
        self._open = self._begun = True
        for worker in self._cache.workers:
            worker.closed = worker in closed
        self._resync.request()

    async def _list(self, *, whole: bool) -> bool:
        """List all unfinished updates. If the stream is divided and not `whole`: those with the label of this shard.

        Returns whether that was done. A label may be missing or wrong, so an update that a list by label does not show
        is read before it counts as deleted.
        """
        stream, shard = self._context.stream, self._context.shard
        selector, label_selector = unfinished_selector(stream.name), "" if whole else shard.selector
        asked = self._context.lease.tenure, self._cache.listed
        listed: set[str] = set()
        updates: list[UserUpdate] = []
        version = 0
        try:
            # Page by page, and of known updates only their names: ten thousand objects as JSON take several times the
            # memory of what is kept of them, and the allocator would not give it back.
            async for page in self._context.cluster.pages(
                UPDATES, stream.namespace, field_selector=selector, label_selector=label_selector, page=LIST_PAGE
            ):
                for body in self._of_shard(page.items):
                    name, at = body["metadata"]["name"], int(body["metadata"]["resourceVersion"])
                    listed.add(name)
                    if not self._cache.knows(body["spec"]["user"], name, at):
                        updates.append(parse(body))
                version = page.resource_version
        except errors.ApiError as error:
            retrying(logger, "Updates not listed, trying again", error, stream=stream.name)
            return False
        if asked != (self._context.lease.tenure, self._cache.listed):
            return False  # another tenure has begun, or a newer list came first: this one may show what is past
        on_missing = self._look_up if label_selector else self._cache.forget
        self._cache.merge_list(listed, updates, version, on_missing)
        return True

    def _of_shard(self, bodies: list[Body]) -> Iterable[Body]:
        """The objects of this shard's users; labels that are missing are set."""
        shard = self._context.shard
        own = bodies if shard.count == 1 else [body for body in bodies if shard.owns(body["spec"]["user"])]
        for body in own:
            self._check_label(body)
        return own

    def _check_label(self, body: Body) -> None:
        """The bridge sets all labels that people select by. Only divided streams need the label of the bucket."""
        divided = self._context.shard.count > 1
        if divided or "source" not in body["spec"]:
            self._context.shared.labels.check(body, divided=divided)

    async def _relist_again(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RELIST_SECONDS):
                    await self._relist_wanted.wait()
            await asyncio.sleep(RETRY_SECONDS)  # a watch that begins anew asks for a list once for each object
            self._relist_wanted.clear()
            await self._adopt()  # the API server may have refused it at the beginning
            if self._open and not await self._list(whole=False):
                self._relist_wanted.set()
            self._resync.request()  # in case anything has kept a worker from waking

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_SECONDS)
            self._cache.prune()

    async def _drain(self) -> bool:
        """Whether all calls have ended, and their outcomes were written, within DRAIN_SECONDS."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await asyncio.gather(*(worker.drained() for worker in self._cache.workers))
        except TimeoutError:
            return False
        return True

    def _new_worker(self) -> UserWorker:
        worker = UserWorker(self._context)
        worker.closed = not self._open
        return worker

    async def _follow_secrets(self) -> None:
        await self._context.follow_secrets(self._resync.request)

    async def _report(self) -> None:
        await self._while_there(report(self._context, self._cache, self._collector, self._gauges))

    async def _report_refused(self) -> None:
        await self._while_there(report_refused(self._context))

    async def _while_there(self, reporting: Awaitable[None]) -> None:
        try:
            await reporting
        except errors.NotFound:
            self._on_gone()
            await asyncio.sleep(RETRY_SECONDS)

    def _on_finished(self, update: UserUpdate) -> None:
        metrics.FINISHED.labels(*self._context.stream_labels, update.status.phase).inc()
        self._cache.finish(update)
        self._collector.add(update)
