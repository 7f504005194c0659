"""The work on one user's updates: look at the queue, decide, act, checkpoint, until there is nothing to do now.

The shard's worker and the cache wake a user's worker whenever something about the user has changed. A worker that waits
has a timer at most and no task: ten thousand waiting users cost memory only.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import TypeAlias, assert_never

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
from controller.reconciler.calls import Call
from controller.reconciler.checkpoints import PendingOutcomes, Superseded, UpdateGone, lingers, write_status
from controller.reconciler.context import ShardContext
from controller.reconciler.step_secrets import CallCredentials
from controller.reconciler.update_reader import read

logger = logging.getLogger(__name__)

#: Seconds until a predecessor that is not finished, or could not be looked up, is looked up again.
PREDECESSOR_SECONDS = 1.0
#: Seconds until the next try where a step cannot be called (its Secret is missing, say), and after an unexpected error.
UNCALLABLE_SECONDS, ERROR_SECONDS = 10.0, 5.0
#: Seconds for which an update waits for a slot of its step before its status says so.
SLOT_PATIENCE = 1.0

#: resourceVersion by the name of the update. It is immutable, as most workers have an empty one, and share it.
_Versions: TypeAlias = Mapping[str, int]
_NO_VERSIONS: _Versions = MappingProxyType({})


class UserWorker:
    """The queue of one user, and the task that works on it while there is something to do."""

    __slots__ = (
        "_beside",
        "_call",
        "_called",
        "_changed",
        "_context",
        "_follows",
        "_in_hand",
        "_newer",
        "_outcomes",
        "_task",
        "_timer",
        "_written_beside",
        "closed",
        "queue",
    )

    def __init__(self, context: ShardContext) -> None:
        self.queue = UserQueue()
        #: Nothing new begins: the Lease was lost, or is about to be released.
        self.closed = False
        self._context = context
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: The update that is being called or written.
        self._in_hand: UserUpdate | None = None
        self._call: Call | None = None
        #: Writes what people ask of other updates while a call is under way; and the update that it writes just now.
        self._beside: asyncio.Task[None] | None = None
        self._written_beside: UserUpdate | None = None
        #: When (monotonic) the last answered call began, at first when this worker was made: delays from before stay.
        self._called = time.monotonic()
        self._outcomes = PendingOutcomes(context)
        #: Newer versions that the watch has shown while a call or a write was under way: looked at when it is over.
        self._newer = _NO_VERSIONS
        #: Done when something has changed: the task, which waits for a slot, is to look at its queue again.
        self._changed: asyncio.Future[None] | None = None
        #: The last predecessor that is known to be finished or gone.
        self._follows: str | None = None

    @property
    def running(self) -> bool:
        """Whether its task runs: a task that was cancelled before it began is still here, and done."""
        return self._task is not None and not self._task.done()

    @property
    def calling(self) -> bool:
        """Whether a call is under way."""
        return self._call is not None and self._call.under_way

    @property
    def unrecorded(self) -> bool:
        """Whether there is an outcome that the API server does not have yet."""
        return bool(self._outcomes)

    def has_in_hand(self, update: UserUpdate) -> bool:
        """Whether the update is being called or written: then a newer version of it is read when that is over."""
        if _is_that(self._in_hand or self._outcomes.update, update):
            if self._call:
                self._call.update_changed(update)
        elif not _is_that(self._written_beside, update):
            return False
        newest = max(update.resource_version, self._newer.get(update.name, 0))
        self._newer = {**self._newer, update.name: newest}
        return True

    def wake(self) -> None:
        """Look at the queue again, at once."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self.running:
            self._notify()
            if self._call and self._call.under_way:
                self._reconsider(self._call)
        elif not self.closed and len(self.queue):
            self._task = asyncio.get_running_loop().create_task(self._work())

    def _notify(self) -> None:
        if self._changed and not self._changed.done():
            self._changed.set_result(None)

    def close(self) -> None:
        """Begin nothing new. A call in flight goes on, and outcomes are written."""
        self.closed = True
        self._notify()

    def cut(self) -> None:
        """Close the connection of a call in flight. Outcomes stay, and are written if the Lease is held again."""
        if self.running and self.calling:
            assert self._task
            self._task.cancel()

    async def drained(self) -> None:
        """Return when its task does not run any more."""
        if self._task:
            await asyncio.wait([self._task])

    def drop(self) -> None:
        """End for good: another controller works on the shard."""
        self.closed = True
        if self._timer:
            self._timer.cancel()
        if self._task:
            self._task.cancel()
        if self._beside:
            self._beside.cancel()
        self._outcomes.drop()

    def finished(self, name: str) -> None:
        """An update is finished or gone: the update after it may begin, unless another one is in hand."""
        self.queue.remove(name)
        self._newer = _without(self._newer, name)
        self._follows = name if self._in_hand is None or self._in_hand.name == name else self._follows

    def gone(self, update: UserUpdate) -> None:
        """The update was deleted. Another update of its name, created since, stays in the queue."""
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
            self._requeue(PREDECESSOR_SECONDS * random.uniform(1.0, 2.0))  # thousands may have been refused together
            retrying(logger, "The API server refused, trying again", error)
        except Exception:
            self._requeue(ERROR_SECONDS)
            logger.exception("Unexpected error, trying again", extra=fields(seconds=ERROR_SECONDS))
        finally:
            self._task = None  # a finished task would take a sixth of the memory of a worker that waits

    async def _go_on(self) -> bool:
        """Do one thing. False: nothing more is to be done now."""
        if self._beside:
            await asyncio.wait([self._beside])
        self._call = self._beside = None
        update = None if self.closed else self._next()
        if update is None:
            if not self._outcomes:
                return False
            await self._write_outcomes()
            return True  # the Lease may be held again by now
        decision = self._decide(update)
        changed = self._newer.get(update.name, 0) > update.resource_version
        if self._outcomes and (changed or not isinstance(decision, RunStep)):
            await self._write_outcomes()
        elif changed:
            await self._look_again(update)
        else:
            return await self._act(update, decision)
        return True

    def _next(self) -> UserUpdate | None:
        """The head of the queue; before it any update with a request of a person, or that was the head before."""
        for update in self.queue.requested:
            if isinstance(self._decide(update), Finish | Release):
                return update
        return next(iter(self.queue.displaced), None) or self.queue.head

    def _decide(self, update: UserUpdate) -> Decision:
        context, mended = self._context, self._context.mended(update.status, self._called)
        return decide(update, self.queue, context.stream, context.now(), follows=self._follows, mended=mended)

    async def _act(self, update: UserUpdate, decision: Decision) -> bool:
        """Do what was decided. False: nothing more is to be done now."""
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
        """Call when one of the step's slots is free and nothing has changed, then checkpoint. Returns as `_act` does.

        Secrets are read and statuses are written without a slot, so that no other user waits for that.
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
                    credentials = await self._context.step_credentials(step)  # waiting may have taken hours
                found = self._still(update, step, endpoint) if turn.done() else None
                if not found or isinstance(credentials, NotCalled):
                    return True
                if not self._context.lease.held:
                    await self._context.lease.wait_held()  # decide anew then: another controller may have held it
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
        """Write to the status what is missing, once, and try again in a while: no event shows when it is there."""
        waiting = waiting_to_be_callable(update.status, why.message, self._context.now())
        if self._outcomes:
            await self._write_outcomes()
        elif waiting != update.status:
            await self._write(update, waiting)
        else:
            self._requeue(UNCALLABLE_SECONDS * random.uniform(0.8, 1.2))
            return False
        return True

    async def _await_turn(self, turn: asyncio.Future[None], update: UserUpdate, step: str, endpoint: StepSpec) -> bool:
        """Wait for a slot. True when this worker has it; False as soon as something else is to be done."""
        patience: float | None = SLOT_PATIENCE
        while not turn.done():
            self._changed = asyncio.get_running_loop().create_future()
            done, _ = await asyncio.wait({turn, self._changed}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not (found := self._still(update, step, endpoint)):
                return False
            update = found
            if not done:
                patience = None
                if self._outcomes:
                    await self._write_outcomes()
                    return False
                waiting = waiting_for_slot(update.status, self._context.now())
                if waiting != update.status:
                    await self._write(update, waiting)
        return True

    def _still(self, update: UserUpdate, step: str, endpoint: StepSpec) -> UserUpdate | None:
        """The update as it stands now; None where something else is to be done, or where the step has changed.

        The headers of one Secret must not be sent to the url of another.
        """
        found = None if self.closed else self._next()
        if found is None or found.name != update.name or self._decide(found) != RunStep(step):
            return None
        return found if self._context.stream.steps[step] == endpoint else None

    async def _ask(
        self, update: UserUpdate, step: str, endpoint: StepSpec, credentials: CallCredentials, started: datetime
    ) -> Outcome | NotCalled | None:
        """Make the call. Returns its outcome; None where it was taken back before it was sent."""
        first = self.queue.take(update.name)
        failpoints.evaluate("controller.calling")
        began = time.monotonic()
        call = self._call = Call(self._context.calls, update, step, endpoint, started)

        def may_repeat() -> bool:
            return self._context.lease.held and self._still(update, step, endpoint) is not None

        answer = self._context.downstream.call(
            STEPS_BY_NAME[step],
            endpoint,
            update,
            update.idempotency_key(step),
            credentials.headers,
            credentials.tls,
            may_repeat,
            call.sending,
        )
        outcome = await call.run(answer, self._keep_shown)
        if outcome is not None and not isinstance(outcome, NotCalled):
            self._called = began
        elif first:
            self.queue.put_back(update.name)
        return outcome

    async def _checkpoint(self, update: UserUpdate, step: str, outcome: Outcome, started: datetime) -> None:
        stream, ended, jitter = self._context.stream, self._context.now(), random.random()
        self._context.count_call(step, outcome, update, started, ended)
        shown = await self._call.shown() if self._call else update
        self._outcomes.add(shown, lambda status: record(status, outcome, stream, started, ended, jitter))
        if lingers(stream, step, outcome, ended - started) and self.queue.replace(self._outcomes.ahead):
            self._outcomes.write_soon(self.queue.replace)
        else:
            await self._write_outcomes()

    async def _write_outcomes(self) -> None:
        update = self._outcomes.update
        assert update
        try:
            after = await self._outcomes.write()
        except UpdateGone:
            self.gone(update)
        else:
            failpoints.evaluate("controller.recorded")
            self._keep(after, update.status)

    async def _write(self, update: UserUpdate, status: Status) -> None:
        with self._holding(update):
            try:
                self._keep(await write_status(self._context, update, status), update.status)
            except UpdateGone:
                self.gone(update)

    @contextmanager
    def _holding(self, update: UserUpdate) -> Iterator[None]:
        self._in_hand = update
        try:
            yield
        finally:
            self._in_hand = None

    async def _look_again(self, update: UserUpdate) -> None:
        """Read an update that somebody else has changed or deleted while it was in hand."""
        if not (found := await read(self._context.cluster, update.namespace, update.name)):
            return self.gone(update)
        self._newer = _without(self._newer, update.name)
        if found.uid != update.uid or found.status.finished:
            self.finished(update.name)
        if not found.status.finished:
            self.queue.push(found)

    def _keep(self, update: UserUpdate, before: Status) -> None:
        """Keep an update as the API server has it now; a finished one leaves the queue."""
        if not update.unreadable:
            self._context.events.update_changed(update, before)
        if update.status.finished:
            self.finished(update.name)
            self._context.on_finished(update)
        else:
            self.queue.push(update)

    def _keep_shown(self, update: UserUpdate, before: Status) -> None:
        """Keep an update whose status a write has changed to show the call, unless the queue has a newer version."""
        known = self.queue.get(update.name)
        if known and known.uid == update.uid and known.resource_version < update.resource_version:
            self._keep(update, before)

    def _reconsider(self, call: Call) -> None:
        """The user's updates or the stream have changed while a call is under way."""
        known = self.queue.get(call.update.name)
        call.decided(known, self._decide(known) if known else None, self._context.stream.steps[call.step])
        if (self._beside is None or self._beside.done()) and self._next_beside(call):
            self._beside = asyncio.get_running_loop().create_task(self._write_beside(call))

    def _next_beside(self, call: Call) -> tuple[UserUpdate, Status] | None:
        """Another update for which a person requests something, and the status that it gets."""
        for update in self.queue.requested if call.under_way else ():
            decision = self._decide(update)
            if update.name != call.update.name and isinstance(decision, Finish | Release):
                return update, decision.status
        return None

    async def _write_beside(self, call: Call) -> None:
        """Write what people request of other updates. If a write fails, it is decided anew when the call is over."""
        while found := self._next_beside(call):
            update, status = found
            self._written_beside = update
            try:
                self._keep(await write_status(self._context, update, status), update.status)
            except UpdateGone:
                self.gone(update)
            except Superseded:
                return
            except errors.ApiError as error:
                retrying(logger, "Request not acted upon yet", error, update=update.name)
                return
            finally:
                self._written_beside = None

    async def _look_up(self, update: UserUpdate, name: str) -> bool:
        """Look up the predecessor `name`. False: nothing more is to be done now."""
        if await self._is_over(name, update):
            self._follows = name
        elif self.queue.head is update:
            self._requeue(PREDECESSOR_SECONDS)
            return False
        return True

    async def _is_over(self, name: str, update: UserUpdate) -> bool:
        """Whether the predecessor of `update` is finished or gone, or none; if not, the queue gets it, before `update`.

        The watch may not have shown it yet. Raises ApiError.
        """
        found = await read(self._context.cluster, update.namespace, name)
        if found is None or found.status.finished or found.comes_later_than(update):
            return True
        if (found.spec.stream, found.spec.user) == (update.spec.stream, update.spec.user):
            known = self.queue.get(name)
            if known is None or known.resource_version < found.resource_version:
                self.queue.push(found)
        return False

    def _requeue(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds) + 0.001, self.wake)


def _is_that(known: UserUpdate | None, update: UserUpdate) -> bool:
    """Whether it is that very update, in whatever version."""
    return known is not None and (known.name, known.uid) == (update.name, update.uid)


def _without(versions: _Versions, name: str) -> _Versions:
    if name not in versions:
        return versions
    return {other: version for other, version in versions.items() if other != name} or _NO_VERSIONS
