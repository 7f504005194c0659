"""Calls of downstreams that are under way: the slots that they wait for, and what is done while one lasts.

A call may last for an hour, and people may ask for something meanwhile. Until a byte is sent (a host name does not
resolve, a host does not answer) a call can be taken back. Afterwards it ends by itself, as it may have acted
downstream; an Event says until when that is.

The status of an update that waited shows what it waited for until its call is answered. So after a second a write shows
that the update is being called. Nothing depends on that write:
- It carries the resourceVersion that was read with the status it replaces, so it never overwrites another status. The
  outcome is written on top of its version. Where it is still under way then, the outcome's write meets a Conflict,
  reads the update again and records the outcome anew.
- It keeps the attempts and everything else that counts. It removes the delay, which is over, or there would be no
  call: after a crash the call is repeated at once, under its key, as it would be without the write.
- The Lease is checked right before it, as before any other write. A write that is refused is not repeated.
- One such write is under way at a time, and their rate is limited: a thousand calls that hang together are shown one
  after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeAlias

from controller import errors
from controller.api import requests
from controller.api.update_stream import StepSpec
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Phase, Reason, Status
from controller.clients.cluster import UPDATES, Cluster
from controller.core.decisions import Decision, RequeueAfter, RunStep, being_called
from controller.core.outcomes import NotCalled, Outcome
from controller.logs import fields
from controller.reconciler.lease import Lease
from controller.reconciler.update_events import UpdateEvents
from controller.reconciler.update_reader import read

logger = logging.getLogger(__name__)

#: Seconds after which a call that is under way is shown in its update's status.
LONG_SECONDS = 1.0
#: Writes of a shard that show a call, per second.
PER_SECOND = 10.0
#: Seconds for which an outcome waits for such a write that is under way. Otherwise it would meet a Conflict.
PATIENCE_SECONDS = 0.5

SUSPENSION = "the suspension takes effect"

#: Called with the update that says it is being called, and with its status before; the call may be over by then.
OnShown: TypeAlias = Callable[[UserUpdate, Status], object]


class CallSlots:
    """A step's `concurrency`: the one place in which calls of users wait for each other, first come, first served.

    Unlike that of asyncio.Semaphore its limit can change while it is in use.
    """

    def __init__(self) -> None:
        #: Most calls at a time; None: no limit.
        self._limit: int | None = None
        self._used = 0
        #: The calls that wait, in the order in which they came.
        self._waiting: dict[asyncio.Future[None], None] = {}

    @contextmanager
    def turn(self) -> Iterator[asyncio.Future[None]]:
        """Wait in line for a slot: the future is done as soon as the caller has one, and keeps it until it leaves."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        self._serve()
        try:
            yield turn
        finally:
            if turn in self._waiting:
                del self._waiting[turn]
            else:
                self._used -= 1
            self._serve()

    def set_limit(self, limit: int | None) -> None:
        self._limit = limit
        self._serve()

    def _serve(self) -> None:
        while self._waiting and (self._limit is None or self._used < self._limit):
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            self._used += 1
            turn.set_result(None)


class Call:
    """One call of a step of an update, made by the task that creates this object."""

    __slots__ = (
        "_calls",
        "_endpoint",
        "_noted",
        "_sent",
        "_showing",
        "_started",
        "_taken_back",
        "_task",
        "_until",
        "step",
        "under_way",
        "update",
    )

    def __init__(self, calls: Calls, update: UserUpdate, step: str, endpoint: StepSpec, started: datetime) -> None:
        self.step = step
        #: The update as it is in the API server after the writes that show this call.
        self.update = update
        self.under_way = True
        self._calls = calls
        #: The step as it is called. Where it changes, the call is taken back if it can be: a corrected url does not
        #: wait for the time-out of the wrong one.
        self._endpoint = endpoint
        self._started = started
        #: When it ends at the latest.
        self._until = started + timedelta(seconds=endpoint.timeout_seconds)
        self._task = asyncio.current_task()
        self._sent = self._taken_back = False
        #: The texts for which an Event has been written.
        self._noted: set[str] = set()
        #: The write under way that shows it.
        self._showing: asyncio.Task[None] | None = None

    def sending(self) -> None:
        """From here on the request may reach the downstream."""
        self._sent = True

    async def run(self, answer: Awaitable[Outcome | NotCalled], on_shown: OnShown) -> Outcome | NotCalled | None:
        """Wait for the answer. Returns the outcome; None where the call was taken back."""
        assert self._task
        try:
            with self._calls.during(self, on_shown):
                outcome = await answer
        except asyncio.CancelledError:
            if self._taken_back and self._task.uncancel() == 0:
                return None
            raise  # by somebody else, who wants the task to end
        finally:
            self.under_way = False
        if self._taken_back:
            self._task.uncancel()  # the answer was faster
        return outcome

    async def shown(self) -> UserUpdate:
        """The update after the call has ended: a write may have shown meanwhile that it was under way."""
        if self._showing:
            await asyncio.wait({self._showing}, timeout=PATIENCE_SECONDS)
        return self.update

    def update_changed(self, update: UserUpdate) -> None:
        """The watch shows a newer version of the update that is called."""
        if not self.under_way:
            return
        request = update.pending_request
        ended = request is not None and requests.verb(request) in requests.END
        if ended or update.spec.suspend or update.deleted:
            self._take_back()
        if not self._taken_back and request is not None:
            self._note(update, f"request {request!r} is looked at")
        if not self._taken_back and update.spec.suspend:
            self._note(update, SUSPENSION)

    def decided(self, update: UserUpdate | None, decision: Decision | None, endpoint: StepSpec) -> None:
        """Something has changed: the update as the queue has it, what is decided for it now, and the step as it is now.

        None where the queue has the update no more.
        """
        if endpoint != self._endpoint or not isinstance(decision, RunStep | None):
            self._take_back()
        suspended = isinstance(decision, RequeueAfter) and decision.status.reason is Reason.SUSPENDED
        if update and suspended and not self._taken_back:
            self._note(update, SUSPENSION)

    def _take_back(self) -> None:
        """End it, if nothing has been sent."""
        if not self._sent and not self._taken_back:
            assert self._task
            self._taken_back = True
            self._task.cancel()

    def _note(self, update: UserUpdate, what: str) -> None:
        if what not in self._noted:
            self._noted.add(what)
            self._calls.events.postponed(update, self.step, what, self._until)

    async def show(self, cluster: Cluster, on_shown: OnShown) -> None:
        """Write that it is under way. A write that is refused is not repeated."""
        self._showing = asyncio.get_running_loop().create_task(self._show(cluster, on_shown))
        await asyncio.wait({self._showing})

    async def _show(self, cluster: Cluster, on_shown: OnShown) -> None:
        try:
            try:
                await self._write(cluster, self.update, on_shown)
            except errors.Conflict:
                # Mostly a label or an annotation was changed. Only the status that is known here is written over.
                found = await read(cluster, self.update.namespace, self.update.name)
                if found and (found.uid, found.status) == (self.update.uid, self.update.status):
                    await self._write(cluster, found, on_shown)
        except errors.ApiError as error:
            logger.debug("Call under way not shown", extra=fields(update=self.update.name, cause=str(error)))

    async def _write(self, cluster: Cluster, update: UserUpdate, on_shown: OnShown) -> None:
        status = being_called(update.status, self.step, self._started)
        body = await cluster.patch_status(
            UPDATES, update.namespace, update.name, status.for_status(), update.resource_version
        )
        self.update = update.with_status(status, int(body["metadata"]["resourceVersion"]))
        on_shown(self.update, update.status)


class Calls:
    """Shows the calls of one shard that last for longer than LONG_SECONDS."""

    def __init__(self, cluster: Cluster, lease: Lease, events: UpdateEvents) -> None:
        self.events = events
        self._cluster = cluster
        self._lease = lease
        #: Calls that have lasted for LONG_SECONDS and are under way, by the name of the update.
        self._long: dict[str, Call] = {}
        self._to_show: deque[tuple[Call, OnShown]] = deque()
        self._shower: asyncio.Task[None] | None = None

    @contextmanager
    def during(self, call: Call, on_shown: OnShown) -> Iterator[None]:
        """Entered for as long as the call is under way."""
        timer = asyncio.get_running_loop().call_later(LONG_SECONDS, self._lasts, call, on_shown)
        try:
            yield
        finally:
            timer.cancel()
            if self._long.get(call.update.name) is call:
                del self._long[call.update.name]

    def _lasts(self, call: Call, on_shown: OnShown) -> None:
        self._long[call.update.name] = call
        if call.update.status.phase is Phase.RUNNING:
            return  # the status says already which step is called
        self._to_show.append((call, on_shown))
        if self._shower is None or self._shower.done():
            self._shower = asyncio.get_running_loop().create_task(self._show_all())

    async def _show_all(self) -> None:
        while self._to_show:
            call, on_shown = self._to_show.popleft()
            if self._long.get(call.update.name) is call and self._lease.held:
                await call.show(self._cluster, on_shown)
                await asyncio.sleep(1 / PER_SECOND)
