"""One user's way through a stream: gather, decide, act, checkpoint, until there is nothing to do now.

Between `engine`, which wakes a lane whenever something about its user has changed, and `checkpoints`. A lane that
waits has a timer at most, no task: ten thousand waiting users cost memory only.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import assert_never

from controller import crashpoints, errors
from controller.cluster import UPDATES
from controller.engine.checkpoints import Gone, Superseded, write_outcome, write_status
from controller.engine.context import StreamContext
from controller.logs import fields
from controller.outcomes import Misconfigured, Outcome
from controller.queueing import UserQueue
from controller.reconcile import (
    AwaitPredecessor,
    Decision,
    Finish,
    Release,
    RequeueAfter,
    RunStep,
    WaitTurn,
    decide,
    record,
    waiting_for_slot,
)
from controller.steps import STEPS
from controller.updates import Status, UserUpdate

logger = logging.getLogger(__name__)

_STEPS = {step.name: step for step in STEPS}
#: Seconds until a predecessor that is not finished, or could not be looked up, is looked up again.
PREDECESSOR_SECONDS = 1.0
#: Seconds until an unexpected error of this lane is tried again.
ERROR_SECONDS = 5.0
#: Seconds of waiting for a step's concurrency before the status says so.
SLOT_PATIENCE = 1.0


class Lane:
    """The queue of one user, and the task that works on it while there is something to do."""

    __slots__ = ("_calling", "_context", "_follows", "_task", "_timer", "closed", "queue")

    def __init__(self, context: StreamContext) -> None:
        self.queue = UserQueue()
        #: Nothing new starts: the Lease has lapsed, or the engine is stopping.
        self.closed = False
        self._context = context
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._calling = False
        #: The predecessor that was found finished or gone, or was finished here.
        self._follows: str | None = None

    @property
    def busy(self) -> bool:
        """Its task runs: the update in hand is changed by nobody else."""
        return self._task is not None and not self._task.done()

    @property
    def waiting_for_time(self) -> bool:
        return self._timer is not None

    def wake(self) -> None:
        """Look at the queue again, at once."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if not self.busy and not self.closed and len(self.queue):
            self._task = asyncio.get_running_loop().create_task(self._work())

    def cut(self) -> None:
        """Close the connection of a call in flight. Outcomes in hand stay: they are written when that may be."""
        if self.busy and self._calling:
            assert self._task
            self._task.cancel()

    async def drained(self) -> None:
        """Return when no task of it runs."""
        if self._task:
            await asyncio.wait([self._task])

    def drop(self) -> None:
        """End it for good: somebody else works on the stream."""
        self.closed = True
        if self._timer:
            self._timer.cancel()
        if self._task:
            self._task.cancel()

    def finished(self, name: str) -> None:
        """An update is finished or gone: what follows it may start."""
        self.queue.remove(name)
        self._follows = name

    async def _work(self) -> None:
        try:
            while (update := self._next()) and not self.closed:
                if not await self._act(update, self._decide(update)):
                    return
        except Superseded:
            self.closed = True
        except errors.ApiError as error:
            self._requeue(PREDECESSOR_SECONDS)
            logger.warning("The API server refused, trying again", extra=fields(cause=str(error)))
        except Exception:
            self._requeue(ERROR_SECONDS)
            logger.exception("Unexpected error, trying again", extra=fields(seconds=ERROR_SECONDS))

    def _next(self) -> UserUpdate | None:
        """The head; before it whatever a person wants skipped or cancelled, be it its turn or not."""
        for update in self.queue.asked:
            if isinstance(self._decide(update), Finish):
                return update
        return self.queue.head

    def _decide(self, update: UserUpdate) -> Decision:
        return decide(update, self.queue, self._context.stream, self._context.now(), follows=self._follows)

    async def _act(self, update: UserUpdate, decision: Decision) -> bool:
        """Do it; False: nothing more to do now."""
        match decision:
            case RunStep(step):
                await self._run_step(update, step)
            case Finish(status) | Release(status):
                await self._write(update, status)
            case RequeueAfter(at, status):
                if status != update.status:
                    await self._write(update, status)
                    return True
                if at is not None:
                    self._requeue((at - self._context.now()).total_seconds())
                return False
            case AwaitPredecessor(name):
                return await self._look_up(update, name)
            case WaitTurn():
                return False
            case _:
                assert_never(decision)
        return True

    async def _run_step(self, update: UserUpdate, step: str) -> None:
        """Call, then checkpoint, once one of the step's slots is free and nothing has changed meanwhile."""
        slots = self._context.slots[step]
        had_to_wait = not slots.free
        if had_to_wait and update.status != (waiting := waiting_for_slot(update.status, self._context.now())):
            try:
                async with asyncio.timeout(SLOT_PATIENCE), slots.use():
                    pass
            except TimeoutError:
                await self._write(update, waiting)
            return
        async with slots.use():
            if had_to_wait and (self.queue.head is not update or self._decide(update) != RunStep(step)):
                return
            await self._call(update, step)

    async def _call(self, update: UserUpdate, step: str) -> None:
        context, stream = self._context, self._context.stream
        key, headers = update.idempotency_key(step), await context.step_headers(step)
        if not context.lease.held:
            self.closed = True
        if self.closed or self.queue.head is not update:
            return
        self.queue.take(update.name)
        started = context.now()
        crashpoints.reach("controller.calling")
        self._calling = True
        try:
            if headers is None:
                outcome: Outcome = Misconfigured(f"there is no Secret {stream.steps[step].secret_name} for {step}")
            else:
                outcome = await context.downstream.call(_STEPS[step], stream.steps[step], update, key, headers)
        finally:
            self._calling = False
        crashpoints.reach("controller.answered")
        ended, jitter = context.now(), random.random()
        context.count_call(step, outcome, update.status, started, ended)
        try:
            after = await write_outcome(
                context, update, lambda status: record(status, outcome, stream, started, ended, jitter)
            )
        except Gone:
            self.finished(update.name)
        else:
            crashpoints.reach("controller.recorded")
            self._keep(after, update.status)

    async def _write(self, update: UserUpdate, status: Status) -> None:
        try:
            self._keep(await write_status(self._context, update, status), update.status)
        except Gone:
            self.finished(update.name)

    def _keep(self, update: UserUpdate, before: Status) -> None:
        """What the API server has now; a finished update leaves the queue."""
        self._context.announcer.update_changed(update, before)
        if update.status.finished:
            self.finished(update.name)
            self._context.on_finished(update)
        else:
            self.queue.push(update)

    async def _look_up(self, update: UserUpdate, name: str) -> bool:
        """Whether the predecessor is finished or gone; if not, it goes into the queue, before what follows it."""
        try:
            found = UserUpdate.from_body(await self._context.cluster.get(UPDATES, update.namespace, name))
        except errors.NotFound:
            self._follows = name
            return True
        if found.status.finished:
            self._follows = name
            return True
        if (found.spec.stream, found.spec.user) == (update.spec.stream, update.spec.user):
            known = self.queue.get(name)
            if known is None or known.resource_version < found.resource_version:
                self.queue.push(found)
            if self.queue.head is not update:
                return True
        self._requeue(PREDECESSOR_SECONDS)
        return False

    def _requeue(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds) + 0.001, self._wake_by_timer)

    def _wake_by_timer(self) -> None:
        self._timer = None
        self.wake()
