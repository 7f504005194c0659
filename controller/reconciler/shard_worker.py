"""The engine of a stream, or of a shard of it: takes its Lease, lists, then keeps lanes going until the Lease is gone.

Between `handlers`, which brings what kopf has seen, and `lane`, which does the work.
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
from controller.logs import fields, retrying
from controller.reconciler import metrics
from controller.reconciler.answering import Answering
from controller.reconciler.cache import Registry
from controller.reconciler.context import Shared, StreamContext
from controller.reconciler.lease import Lease
from controller.reconciler.mending import follow_secrets
from controller.reconciler.parsing import parse
from controller.reconciler.retention import Collection
from controller.reconciler.sharing import KEPT_SECONDS
from controller.reconciler.stream_report import report, report_refused
from controller.reconciler.user_worker import Lane
from controller.reconciler.waking import Waking

logger = logging.getLogger(__name__)

#: Seconds between consistent lists, which find what a watch has missed (kopf reports no deletions after a re-list).
RESYNC_SECONDS = 120.0
#: Updates in a page of such a list.
LIST_PAGE = 250
RETRY_SECONDS = 1.0
#: Seconds that calls in flight get to end by themselves when the process stops: a successor waits for them.
DRAIN_SECONDS = 1.0
PRUNE_SECONDS = 5.0


class Engine:
    """All work on one shard in this process; stands by while another controller holds the shard's Lease."""

    def __init__(self, shared: Shared, stream: UpdateStream, shard: Shard, on_gone: Callable[[], None]) -> None:
        """`on_gone` is called when the stream turns out to have been deleted."""
        lease = Lease(
            shared.cluster, shared.sharing, stream.namespace, stream.name, shard, shared.identity, shared.siblings
        )
        self._context = StreamContext(
            shared=shared, shard=shard, lease=lease, stream=stream, on_finished=self._on_finished
        )
        self._context.reconfigure(stream)
        self._registry = Registry(self._new_lane)
        self._answering = Answering(self._context)
        self._collection = Collection(self._context, self._answering.notice)
        self._on_gone = on_gone
        self._gauges = metrics.Part()
        self._doubt = asyncio.Event()
        self._waking = Waking(lambda: self._registry.lanes)
        #: Whether lanes may start calls: the Lease is held, the first list is in.
        self._open = False
        #: It is about to be given away, where no call keeps it here: what the watch shows meanwhile counts still.
        self._giving = False
        self._begun = False
        #: The last event of each object, by uid, while the first list is under way; None: none is.
        self._early: dict[str, tuple[str | None, Body]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._halting = asyncio.Lock()
        #: When (monotonic) giving it away last failed of calls that did not end.
        self._kept = float("-inf")
        self._looks: set[asyncio.Task[None]] = set()

    @property
    def settled(self) -> bool:
        """This controller has begun to work on the shard, has seen that another one does, or says why nobody can."""
        return self._begun or self._context.lease.foreign or bool(self._context.lease.refused)

    def start(self, after: asyncio.Task[None] | None) -> None:
        """Begin, at once or when `after` is done."""
        self._task = asyncio.get_running_loop().create_task(self._run(after))

    async def stop(self) -> None:
        """Let calls in flight end, within a second; record what they gave; give the Lease away."""
        self._ended = True
        await self._halt()

    async def _halt(self) -> None:
        async with self._halting:
            self._open = False
            for lane in self._registry.lanes:
                lane.close()
            if self.lease.held:
                await self._drain()
            if self._task:
                self._task.cancel()
                await asyncio.wait([self._task])
            self._registry.clear()
            self._answering.clear()
            self._gauges.clear()
            await self.lease.release()

    @property
    def lease(self) -> Lease:
        """Of the stream, or of the shard."""
        return self._context.lease

    @property
    def load(self) -> tuple[int, int] | None:
        """Users who are called now, and who wait; None where it is not to be given away now."""
        if not self._open or not self.lease.held or time.monotonic() - self._kept < KEPT_SECONDS:
            return None
        lanes = self._registry.lanes
        return sum(lane.busy for lane in lanes), len(lanes)

    async def hand_over(self) -> bool:
        """Give the Lease away to whoever wants it, and stand by.

        No call is cut for that, and none repeated: False where those in flight do not end within a second; then all
        goes on here as before.
        """
        tenure, self._open, self._giving = self.lease.tenure, False, True
        stay_closed = {lane for lane in self._registry.lanes if lane.closed}
        for lane in self._registry.lanes:
            lane.close()
        drained = await self._drain()
        self._giving = False
        if not drained or any(lane.unrecorded for lane in self._registry.lanes):
            self._kept = time.monotonic()
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
        """A changed spec acts at once."""
        self._context.reconfigure(stream)
        self._waking.ask()

    def doubt(self) -> None:
        """The watch began anew, and tells nothing of what was deleted meanwhile: list."""
        self._doubt.set()

    def doubt_finished(self) -> None:
        """The same of what is finished."""
        self._collection.doubt()

    def observe(self, kind: str | None, body: Body) -> None:
        """What the watch has shown. `kind` DELETED may also mean that the update's phase left the watch's selector."""
        if kind is None:
            self.doubt()
        if self._early is None and not (self._open or self._giving):
            return
        if kind != "DELETED":
            self._check_label(body)
        if self._early is not None:
            self._early[body["metadata"]["uid"]] = (kind, body)
        elif kind == "DELETED":
            self._observe_gone(body)
        else:
            self._merge(parse(body))

    def _merge(self, update: UserUpdate) -> None:
        self._registry.merge(update)
        if update.status.finished:
            self._collection.add(update)

    def _observe_gone(self, body: Body) -> None:
        """Deleted, or in another phase by a write of ours or of somebody else's: a look at the object tells."""
        metadata = body["metadata"]
        lane = self._registry.lane(body["spec"]["user"])
        known = lane.queue.get(metadata["name"]) if lane else None
        if lane is None or known is None or known.resource_version >= int(metadata["resourceVersion"]):
            return  # mostly the echo of our own write
        update = parse(body)
        if update.status.phase in (None, Phase.WAITING):  # the watch would go on showing it
            update = replace(update, deleted=True)
        if not lane.has_in_hand(update):
            self._look_up(known)

    def _look_up(self, known: UserUpdate) -> None:
        look = asyncio.get_running_loop().create_task(self._look(known))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _look(self, update: UserUpdate) -> None:
        try:
            body = await self._context.cluster.get(UPDATES, update.namespace, update.name)
        except errors.NotFound:
            self._registry.forget(update)
        except errors.ApiError as error:
            retrying(logger, "Update not read; the next list will tell", error)
        else:
            self._check_label(body)
            self._merge(parse(body))

    async def _run(self, after: asyncio.Task[None] | None) -> None:
        """Until cancelled; an unexpected error is logged, and everything but the Lease begins anew."""
        if after:
            await asyncio.wait([after])
        async with asyncio.TaskGroup() as group:
            for work in (
                self._context.lease.keep,
                self._work,
                self._waking.run,
                self._follow_secrets,
                self._resync,
                self._prune,
                self._collection.run,
                self._report,
                self._report_refused,
            ):
                group.create_task(self._for_ever(work))

    async def _for_ever(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:
                logger.exception("Unexpected error, trying again", extra=fields(stream=self._context.stream.name))
                await asyncio.sleep(RETRY_SECONDS)

    async def _work(self) -> None:
        """Tenure after tenure. A Lease that lapsed and came back untouched goes on with the outcomes in memory."""
        lease, known = self._context.lease, 0
        while True:
            await lease.wait_held()
            tenure = lease.tenure
            if tenure != known:
                known = tenure
                self._registry.clear()
                self._answering.clear()
                self._collection.clear()
                self._context.health = StepHealth()
            await self._begin(tenure)
            held = metrics.LEASE_HELD.labels(*self._context.stream_labels)
            self._gauges.set(held, 1)
            await lease.wait_lapsed(tenure)
            self._gauges.clear()
            self._open = False
            for lane in self._registry.lanes:
                lane.close()
                lane.cut()

    async def _begin(self, tenure: int) -> None:
        """List everything before any work; the events that come meanwhile are merged behind it."""
        self._early = {}
        while self._context.lease.tenure == tenure and not (await self._adopt() and await self._list(whole=True)):
            await asyncio.sleep(RETRY_SECONDS)
        failpoints.evaluate("controller.listed")
        early, self._early = self._early, None
        if self._context.lease.tenure != tenure:
            return
        self._reopen()
        for kind, body in early.values():
            self.observe(kind, body)

    async def _adopt(self) -> bool:
        """Write the annotation by which a copy is recognized, before anything is called. Whether that is done."""
        try:
            await adopt(self._context.cluster, self._context.stream)
        except errors.ApiError as error:
            retrying(logger, "Stream not adopted, trying again", error)
            return False
        return True

    def _reopen(self, closed: Set[Lane] = frozenset()) -> None:
        self._open = self._begun = True
        for lane in self._registry.lanes:
            lane.closed = lane in closed
        self._waking.ask()

    async def _list(self, *, whole: bool) -> bool:
        """All that is unfinished; or, where the stream is divided and not the `whole` is asked for, by its label.

        A label may be missing or wrong, so that nothing is known to be gone because a list by label misses it.
        """
        stream, shard = self._context.stream, self._context.shard
        selector, label_selector = unfinished_selector(stream.name), "" if whole else shard.selector
        asked = self._context.lease.tenure, self._registry.listed
        listed: set[str] = set()
        updates: list[UserUpdate] = []
        version = 0
        try:
            # By pages, each read at once, and of what is known its name alone: ten thousand objects as JSON would be
            # several times what is kept of them, and once more what is kept of them would stay with the allocator.
            async for page in self._context.cluster.pages(
                UPDATES, stream.namespace, field_selector=selector, label_selector=label_selector, page=LIST_PAGE
            ):
                for body in self._of_shard(page.items):
                    name, at = body["metadata"]["name"], int(body["metadata"]["resourceVersion"])
                    listed.add(name)
                    if not self._registry.knows(body["spec"]["user"], name, at):
                        updates.append(parse(body))
                version = page.resource_version
        except errors.ApiError as error:
            retrying(logger, "Updates not listed, trying again", error, stream=stream.name)
            return False
        if asked != (self._context.lease.tenure, self._registry.listed):
            return False  # another tenure has begun, or a newer list came first: this one could revive what is done
        on_missing = self._look_up if label_selector else self._registry.forget
        self._registry.merge_list(listed, updates, version, on_missing)
        return True

    def _of_shard(self, bodies: list[Body]) -> Iterable[Body]:
        """Those of our users."""
        shard = self._context.shard
        own = bodies if shard.count == 1 else [body for body in bodies if shard.owns(body["spec"]["user"])]
        for body in own:
            self._check_label(body)
        return own

    def _check_label(self, body: Body) -> None:
        """Those of records have all that people select by, and the bucket is for streams that are divided alone."""
        divided = self._context.shard.count > 1
        if divided or "source" not in body["spec"]:
            self._context.shared.labels.check(body, divided=divided)

    async def _resync(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESYNC_SECONDS):
                    await self._doubt.wait()
            await asyncio.sleep(RETRY_SECONDS)  # a watch that begins anew says so once for each object
            self._doubt.clear()
            await self._adopt()  # which may have been refused at the beginning
            if self._open and not await self._list(whole=False):
                self._doubt.set()
            self._waking.ask()  # whatever has kept a lane from waking is made good by that

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_SECONDS)
            self._registry.prune()

    async def _drain(self) -> bool:
        """Whether all calls have ended, and been recorded, in time."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await asyncio.gather(*(lane.drained() for lane in self._registry.lanes))
        except TimeoutError:
            return False
        return True

    def _new_lane(self) -> Lane:
        lane = Lane(self._context)
        lane.closed = not self._open
        return lane

    async def _follow_secrets(self) -> None:
        await follow_secrets(self._context, self._waking.ask)

    async def _report(self) -> None:
        await self._while_there(report(self._context, self._registry, self._collection, self._gauges))

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
        self._registry.finish(update)
        self._collection.add(update)
