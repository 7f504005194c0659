"""One user's way through a stream: gather, decide, act, checkpoint, until there is nothing to do now.

Between `engine`, which wakes a lane whenever something about its user has changed, and `checkpoints`. A lane that
waits has a timer at most, no task: ten thousand waiting users cost memory only.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import assert_never

from controller import errors, failpoints
from controller.api.update_stream import StepSpec
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Status
from controller.core.decisions import (
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
    waiting_to_be_callable,
)
from controller.core.outcomes import NotCalled, Outcome
from controller.core.steps import STEPS_BY_NAME
from controller.core.user_queue import UserQueue
from controller.logs import fields, retrying
from controller.reconciler import newer
from controller.reconciler.calling import Call
from controller.reconciler.checkpoints import Gone, Superseded, write_status
from controller.reconciler.context import StreamContext
from controller.reconciler.parsing import read
from controller.reconciler.predecessors import PREDECESSOR_SECONDS, settled
from controller.reconciler.step_secrets import CallCredentials
from controller.reconciler.unwritten import Unwritten, lingers

logger = logging.getLogger(__name__)
#: Seconds until a step that cannot be called, for want of its Secret say, is tried again; and an unexpected error.
UNCALLABLE_SECONDS, ERROR_SECONDS = 10.0, 5.0
#: Seconds of waiting for a step's concurrency before the status says so.
SLOT_PATIENCE = 1.0


class Lane:
    """The queue of one user, and the task that works on it while there is something to do."""

    __slots__ = (
        "_call",
        "_called",
        "_context",
        "_follows",
        "_in_hand",
        "_newer",
        "_stirred",
        "_task",
        "_timer",
        "_unwritten",
        "closed",
        "queue",
    )

    def __init__(self, context: StreamContext) -> None:
        self.queue = UserQueue()
        #: Nothing new starts: the Lease has lapsed, or the engine is stopping.
        self.closed = False
        self._context = context
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: The update that is being called or written.
        self._in_hand: UserUpdate | None = None
        self._call: Call | None = None
        #: When (monotonic) the last one that was made began. Delays from before this lane are others', and stay.
        self._called = time.monotonic()
        self._unwritten = Unwritten(context)
        self._newer = newer.NONE
        #: Done when a task that waits for a slot is to look at its queue again.
        self._stirred: asyncio.Future[None] | None = None
        #: The predecessor that was found finished or gone, or was finished here.
        self._follows: str | None = None

    @property
    def busy(self) -> bool:
        """Its task runs; one that was cancelled before it began is still here, and done."""
        return self._task is not None and not self._task.done()

    @property
    def calling(self) -> bool:
        """A call is in flight."""
        return self._call is not None and self._call.under_way

    @property
    def unrecorded(self) -> bool:
        """It has an outcome in hand that is not in the API server yet."""
        return bool(self._unwritten)

    def has_in_hand(self, update: UserUpdate) -> bool:
        """Whether it is being called or is to be written; what else changes it is looked up when that is over."""
        held = self._in_hand or self._unwritten.update
        if held is None or (held.name, held.uid) != (update.name, update.uid):
            if not (self._call and self._call.writes(update)):
                return False
        elif self._call:
            self._call.changed(update)
        self._newer = newer.with_version(self._newer, update.name, update.resource_version)
        return True

    def wake(self) -> None:
        """Look at the queue again, at once."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self.busy:
            self._stir()
            if self._call:
                self._call.look()
        elif not self.closed and len(self.queue):
            self._task = asyncio.get_running_loop().create_task(self._work())

    def _stir(self) -> None:
        if self._stirred and not self._stirred.done():
            self._stirred.set_result(None)

    def close(self) -> None:
        """Start nothing new; a call in flight, and an outcome in hand, go on."""
        self.closed = True
        self._stir()

    def cut(self) -> None:
        """Close the connection of a call in flight. Outcomes in hand stay: they are written when that may be."""
        if self.busy and self.calling:
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
        if self._call:
            self._call.drop()
        self._unwritten.drop()

    def finished(self, name: str) -> None:
        """An update is finished or gone: what follows it may start, but while another one is in hand."""
        self.queue.remove(name)
        self._newer = newer.without(self._newer, name)
        self._follows = name if self._in_hand is None or self._in_hand.name == name else self._follows

    def gone(self, update: UserUpdate) -> None:
        """It is no more. Another one of its name, made since, is not forgotten with it."""
        found = self.queue.get(update.name)
        self.finished(update.name)
        if found and found.uid != update.uid:
            self.queue.push(found)

    async def _work(self) -> None:
        try:
            while await self._go_on():
                pass
        except Superseded:
            self.closed = True
        except errors.ApiError as error:
            self._requeue(PREDECESSOR_SECONDS * random.uniform(1.0, 2.0))  # thousands may have met it together
            retrying(logger, "The API server refused, trying again", error)
        except Exception:
            self._requeue(ERROR_SECONDS)
            logger.exception("Unexpected error, trying again", extra=fields(seconds=ERROR_SECONDS))
        finally:
            self._task = None  # a finished task takes a sixth of the memory of a lane that waits

    async def _go_on(self) -> bool:
        """One thing; False: nothing more to do now."""
        if self._call:
            await self._call.settled()
            self._call = None
        update = None if self.closed else self._next()
        if update is None:
            if not self._unwritten:
                return False
            await self._write_outcomes()
            return True  # the Lease may be back by now
        decision = self._decide(update)
        changed = self._newer.get(update.name, 0) > update.resource_version
        if self._unwritten and (changed or not isinstance(decision, RunStep)):
            await self._write_outcomes()
        elif changed:
            await self._look_again(update)
        else:
            return await self._act(update, decision)
        return True

    def _next(self) -> UserUpdate | None:
        """The head; before it whatever a person has asked for, or was the head, be it its turn or not."""
        for update in self.queue.requested:
            if isinstance(self._decide(update), Finish | Release):
                return update
        return next(iter(self.queue.displaced), None) or self.queue.head

    def _decide(self, update: UserUpdate) -> Decision:
        context, mended = self._context, self._context.mended(update.status, self._called)
        return decide(update, self.queue, context.stream, context.now(), follows=self._follows, mended=mended)

    async def _act(self, update: UserUpdate, decision: Decision) -> bool:
        """Do it; False: nothing more to do now."""
        match decision:
            case RunStep(step):
                return await self._run_step(update, step)
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

    async def _run_step(self, update: UserUpdate, step: str) -> bool:
        """Call, once one of the step's slots is free and nothing has changed; then checkpoint. False: as for `_act`.

        The slot is for the call alone: no other user waits for a Secret to be read or a status to be written.
        """
        endpoint = self._context.stream.steps[step]
        credentials = await self._context.step_credentials(step)
        if not self._still(update, step, endpoint):
            return True
        if isinstance(credentials, NotCalled):
            return await self._wait_to_be_callable(update, credentials)
        with ExitStack() as holding:
            with self._context.slots[step].turn() as turn:
                if not turn.done() and await self._await_turn(turn, update, step, endpoint):
                    credentials = await self._context.step_credentials(step)  # it may have taken hours
                found = self._still(update, step, endpoint) if turn.done() else None
                if not found or isinstance(credentials, NotCalled):
                    return True
                if not self._context.lease.held:
                    await self._context.lease.wait_held()  # decide anew then: somebody else may have held it
                    return True
                holding.enter_context(self._holding(found))
                started = self._context.now()
                outcome = await self._ask(found, step, endpoint, credentials, started)
            if outcome is None:
                return True
            if isinstance(outcome, NotCalled):
                return await self._wait_to_be_callable(found, outcome)
            failpoints.evaluate("controller.answered")
            await self._checkpoint(found, step, outcome, started)
        return True

    async def _wait_to_be_callable(self, update: UserUpdate, why: NotCalled) -> bool:
        """Say so, once, and try again in a while: what is missing may come without an event that is seen here."""
        waiting = waiting_to_be_callable(update.status, why.message, self._context.now())
        if self._unwritten:
            await self._write_outcomes()
        elif waiting != update.status:
            await self._write(update, waiting)
        else:
            self._requeue(UNCALLABLE_SECONDS * random.uniform(0.8, 1.2))
            return False
        return True

    async def _await_turn(self, turn: asyncio.Future[None], update: UserUpdate, step: str, endpoint: StepSpec) -> bool:
        """True when a slot is free; False as soon as something else is to be done."""
        patience: float | None = SLOT_PATIENCE
        while not turn.done():
            self._stirred = asyncio.get_running_loop().create_future()
            done, _ = await asyncio.wait({turn, self._stirred}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not (found := self._still(update, step, endpoint)):
                return False
            update = found
            if not done:
                patience = None
                if self._unwritten:
                    await self._write_outcomes()
                    return False
                waiting = waiting_for_slot(update.status, self._context.now())
                if waiting != update.status:
                    await self._write(update, waiting)
        return True

    def _still(self, update: UserUpdate, step: str, endpoint: StepSpec) -> UserUpdate | None:
        """The update as it stands now; None where it is not this step of it that is to run, and as it was specified:
        the headers of one Secret must not go to the url of another.
        """
        found = None if self.closed else self._next()
        if found is None or found.name != update.name or self._decide(found) != RunStep(step):
            return None
        return found if self._context.stream.steps[step] == endpoint else None

    async def _ask(
        self, update: UserUpdate, step: str, endpoint: StepSpec, credentials: CallCredentials, started: datetime
    ) -> Outcome | NotCalled | None:
        """None: it was taken back before it was sent."""
        first = self.queue.take(update.name)
        failpoints.evaluate("controller.calling")
        began = time.monotonic()
        call = self._call = Call(self._context, self.queue, self._decide, self._keep, self.gone, update, step, started)

        def may_repeat() -> bool:
            return self._context.lease.held and self._still(update, step, endpoint) is not None

        made = STEPS_BY_NAME[step], endpoint, update, update.idempotency_key(step), credentials.headers, credentials.tls
        outcome = await call.made(self._context.downstream.call(*made, may_repeat, call.sending))
        if outcome is not None and not isinstance(outcome, NotCalled):
            self._called = began
        elif first:
            self.queue.put_back(update.name)
        return outcome

    async def _checkpoint(self, update: UserUpdate, step: str, outcome: Outcome, started: datetime) -> None:
        stream, ended, jitter = self._context.stream, self._context.now(), random.random()
        self._context.count_call(step, outcome, update, started, ended)
        shown = await self._call.shown() if self._call else update
        self._unwritten.add(shown, lambda status: record(status, outcome, stream, started, ended, jitter))
        if lingers(stream, step, outcome, ended - started) and self.queue.replace(self._unwritten.ahead):
            self._unwritten.write_soon(self.queue.replace)
        else:
            await self._write_outcomes()

    async def _write_outcomes(self) -> None:
        update = self._unwritten.update
        assert update
        try:
            after = await self._unwritten.write()
        except Gone:
            self.gone(update)
        else:
            failpoints.evaluate("controller.recorded")
            self._keep(after, update.status)

    async def _write(self, update: UserUpdate, status: Status) -> None:
        with self._holding(update):
            try:
                self._keep(await write_status(self._context, update, status), update.status)
            except Gone:
                self.gone(update)

    @contextmanager
    def _holding(self, update: UserUpdate) -> Iterator[None]:
        self._in_hand = update
        try:
            yield
        finally:
            self._in_hand = None

    async def _look_again(self, update: UserUpdate) -> None:
        """It was changed or deleted by somebody else while it was in hand."""
        if not (found := await read(self._context.cluster, update.namespace, update.name)):
            return self.gone(update)
        self._newer = newer.without(self._newer, update.name)
        if found.uid != update.uid or found.status.finished:
            self.finished(update.name)
        if not found.status.finished:
            self.queue.push(found)

    def _keep(self, update: UserUpdate, before: Status) -> None:
        """What the API server has now; a finished update leaves the queue."""
        if not update.unreadable:
            self._context.announcer.update_changed(update, before)
        if update.status.finished:
            self.finished(update.name)
            self._context.on_finished(update)
        else:
            self.queue.push(update)

    async def _look_up(self, update: UserUpdate, name: str) -> bool:
        """Whether there is something to do now that the predecessor was looked up."""
        if await settled(self._context.cluster, update, name, self.queue):
            self._follows = name
        elif self.queue.head is update:
            self._requeue(PREDECESSOR_SECONDS)
            return False
        return True

    def _requeue(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds) + 0.001, self.wake)
