"""Calls that last: their updates say that they are being called.

An update that waited says why until its call is answered, which may take an hour: a busy downstream, a stream that was
missing. After a second it is worth a write to say that it is being called. No more than that depends on the write:
- It carries the resourceVersion that was read with the status it replaces, so it never overwrites another one. The
  outcome's write goes on from its version; where it is still under way then, that one meets a Conflict, and reads and
  records anew.
- Attempts and what else counts stay. The delay that it takes away is over, or there would be no call: after a crash
  that is repeated at once, under its key, as it would be without the write.
- The Lease is looked at right before it, as before any other; what is refused is left.
- One write at a time, and so many a second: a thousand calls that hang together are shown one after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeAlias

from controller import errors
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Phase, Status
from controller.clients.cluster import UPDATES, Cluster
from controller.core.decisions import being_called
from controller.logs import fields
from controller.reconciler.lease import Lease
from controller.reconciler.parsing import read

logger = logging.getLogger(__name__)

#: Seconds after which a call counts as one that lasts.
LONG_SECONDS = 1.0
#: Writes of a shard that say so, a second.
PER_SECOND = 10.0
#: Seconds that an outcome waits for such a write under way: it would meet a Conflict otherwise.
PATIENCE_SECONDS = 0.5

#: Called with the update that says so, and the status that it had before; the call may be over by then.
OnShown: TypeAlias = Callable[[UserUpdate, Status], object]


class LongCall:
    """One call, which may become one that lasts."""

    __slots__ = ("_on_shown", "_showing", "_started", "_step", "update")

    def __init__(self, update: UserUpdate, step: str, started: datetime, on_shown: OnShown) -> None:
        #: As the API server has it, as far as this call has changed it.
        self.update = update
        self._step = step
        self._started = started
        self._on_shown = on_shown
        #: The write under way.
        self._showing: asyncio.Task[None] | None = None

    async def settled(self) -> UserUpdate:
        """The update, once the call is over."""
        if self._showing:
            await asyncio.wait({self._showing}, timeout=PATIENCE_SECONDS)
        return self.update

    async def show(self, cluster: Cluster) -> None:
        """Write that it is under way. What is refused is left; where the outcome's write is too, that is told of."""
        self._showing = asyncio.get_running_loop().create_task(self._show(cluster))
        await asyncio.wait({self._showing})

    async def _show(self, cluster: Cluster) -> None:
        try:
            try:
                await self._write(cluster, self.update)
            except errors.Conflict:
                # Mostly a label or an annotation: what says nothing else of the status is written over it.
                found = await read(cluster, self.update.namespace, self.update.name)
                if found and (found.uid, found.status) == (self.update.uid, self.update.status):
                    await self._write(cluster, found)
        except errors.ApiError as error:
            logger.debug("Call under way not shown", extra=fields(update=self.update.name, cause=str(error)))

    async def _write(self, cluster: Cluster, update: UserUpdate) -> None:
        status = being_called(update.status, self._step, self._started)
        body = await cluster.patch_status(
            UPDATES, update.namespace, update.name, status.for_status(), update.resource_version
        )
        self.update = update.with_status(status, int(body["metadata"]["resourceVersion"]))
        self._on_shown(self.update, update.status)


class LongCalls:
    """Those of one shard."""

    def __init__(self, cluster: Cluster, lease: Lease) -> None:
        self._cluster = cluster
        self._lease = lease
        #: By the name of the update; a call that lasts no second never gets here.
        self._under_way: dict[str, LongCall] = {}
        self._to_show: deque[LongCall] = deque()
        self._shower: asyncio.Task[None] | None = None

    @contextmanager
    def call(self, update: UserUpdate, step: str, started: datetime, on_shown: OnShown) -> Iterator[LongCall]:
        """Entered for as long as the call is under way."""
        call = LongCall(update, step, started, on_shown)
        timer = asyncio.get_running_loop().call_later(LONG_SECONDS, self._lasts, call)
        try:
            yield call
        finally:
            timer.cancel()
            if self._under_way.get(update.name) is call:
                del self._under_way[update.name]

    def _lasts(self, call: LongCall) -> None:
        self._under_way[call.update.name] = call
        if call.update.status.phase is Phase.RUNNING:
            return  # it says which step comes
        self._to_show.append(call)
        if self._shower is None or self._shower.done():
            self._shower = asyncio.get_running_loop().create_task(self._show_all())

    async def _show_all(self) -> None:
        while self._to_show:
            call = self._to_show.popleft()
            if self._under_way.get(call.update.name) is call and self._lease.held:
                await call.show(self._cluster)
                await asyncio.sleep(1 / PER_SECOND)
