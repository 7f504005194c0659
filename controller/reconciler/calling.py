"""A call under way, which may take an hour, and what people ask meanwhile.

Before a byte is sent (a name does not resolve, a host does not answer) the call can be taken back. Afterwards it ends
by itself, as it may have acted downstream; whoever asked is told until when that is. What is asked of the user's other
updates is done at once, beside the call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from controller import errors
from controller.api import requests
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Reason, Status
from controller.core.decisions import Decision, Finish, Release, RequeueAfter, RunStep
from controller.core.outcomes import NotCalled, Outcome
from controller.core.user_queue import UserQueue
from controller.logs import retrying
from controller.reconciler.checkpoints import Gone, Superseded, write_status
from controller.reconciler.context import StreamContext
from controller.reconciler.longcalls import LongCall

logger = logging.getLogger(__name__)

SUSPENSION = "the suspension takes effect"


class Call:
    """One call of an update's step, by the task that makes this; it is over when the writes beside it are, too."""

    __slots__ = (
        "_beside",
        "_context",
        "_decide",
        "_endpoint",
        "_gone",
        "_keep",
        "_long",
        "_queue",
        "_sent",
        "_started",
        "_step",
        "_taken_back",
        "_task",
        "_told",
        "_until",
        "_update",
        "_writing",
        "under_way",
    )

    def __init__(
        self,
        context: StreamContext,
        queue: UserQueue,
        decide: Callable[[UserUpdate], Decision],
        keep: Callable[[UserUpdate, Status], None],
        gone: Callable[[UserUpdate], None],
        update: UserUpdate,
        step: str,
        started: datetime,
    ) -> None:
        """`keep` and `gone` say what became of an update of the queue that was written."""
        self.under_way = True
        self._context, self._queue = context, queue
        self._decide, self._keep, self._gone = decide, keep, gone
        self._update, self._step, self._started = update, step, started
        #: As it is called: a corrected url is not to wait for the wrong one's time-out.
        self._endpoint = context.stream.steps[step]
        #: When it ends at the latest.
        self._until = started + timedelta(seconds=self._endpoint.timeout_seconds)
        self._long: LongCall | None = None
        self._task = asyncio.current_task()
        self._sent = self._taken_back = False
        #: What has been told of.
        self._told: set[str] = set()
        #: Writes what is asked of other updates, and which of them just now.
        self._beside: asyncio.Task[None] | None = None
        self._writing: UserUpdate | None = None

    def sending(self) -> None:
        """From here on it may arrive."""
        self._sent = True

    async def made(self, call: Awaitable[Outcome | NotCalled]) -> Outcome | NotCalled | None:
        """The outcome; None where it was taken back."""
        assert self._task
        long_calls = self._context.long_calls
        try:
            with long_calls.call(self._update, self._step, self._started, self._keep_shown) as self._long:
                outcome = await call
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
        """The update as the call has left it, which is over: a write may have said that it was under way."""
        return await self._long.settled() if self._long else self._update

    def _keep_shown(self, update: UserUpdate, before: Status) -> None:
        """Unless the queue has a newer one, as the outcome's may be that is written by now."""
        known = self._queue.get(update.name)
        if known and known.uid == update.uid and known.resource_version < update.resource_version:
            self._keep(update, before)

    async def settled(self) -> None:
        """Return when the writes beside the call are over."""
        if self._beside:
            await asyncio.wait([self._beside])

    def drop(self) -> None:
        """Write nothing more beside it."""
        if self._beside:
            self._beside.cancel()

    def writes(self, update: UserUpdate) -> bool:
        """Whether it is just being written beside the call."""
        held = self._writing
        return held is not None and (held.name, held.uid) == (update.name, update.uid)

    def changed(self, update: UserUpdate) -> None:
        """The watch shows a newer version of the update that is called."""
        if not self.under_way:
            return
        request = update.pending_request
        ended = request is not None and requests.verb(request) in requests.END
        if ended or update.spec.suspend or update.deleted:
            self._take_back()
        if not self._taken_back and request is not None:
            self._tell(update, f"request {request!r} is looked at")
        if not self._taken_back and update.spec.suspend:
            self._tell(update, SUSPENSION)

    def look(self) -> None:
        """Something about the user or the stream has changed."""
        if not self.under_way:
            return
        known = self._queue.get(self._update.name)
        decision = self._decide(known) if known else None
        if self._context.stream.steps[self._step] != self._endpoint or not isinstance(decision, RunStep | None):
            self._take_back()
        suspended = isinstance(decision, RequeueAfter) and decision.status.reason is Reason.SUSPENDED
        if known and suspended and not self._taken_back:
            self._tell(known, SUSPENSION)
        if (self._beside is None or self._beside.done()) and self._next():
            self._beside = asyncio.get_running_loop().create_task(self._write_beside())

    def _take_back(self) -> None:
        """End it, if nothing has been sent."""
        if not self._sent and not self._taken_back:
            assert self._task
            self._taken_back = True
            self._task.cancel()

    def _tell(self, update: UserUpdate, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._context.announcer.postponed(update, self._step, what, self._until)

    def _next(self) -> tuple[UserUpdate, Status] | None:
        """What a person asks of another update, and what becomes of it."""
        for update in self._queue.requested if self.under_way else ():
            decision = self._decide(update)
            if update.name != self._update.name and isinstance(decision, Finish | Release):
                return update, decision.status
        return None

    async def _write_beside(self) -> None:
        """What cannot be written now is decided anew when the call is over."""
        while found := self._next():
            update, status = found
            self._writing = update
            try:
                self._keep(await write_status(self._context, update, status), update.status)
            except Gone:
                self._gone(update)
            except Superseded:
                return
            except errors.ApiError as error:
                retrying(logger, "Request not acted upon yet", error, update=update.name)
                return
            finally:
                self._writing = None
