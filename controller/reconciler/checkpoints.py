"""Checkpoints: writes of what was decided, or answered by a downstream, to an update's status.

resourceVersion fences every write. An outcome is never discarded: after a Conflict the update is read again and the
outcome recorded anew, an outage is waited out, and what somebody else has recorded already is left as it is.

With `checkpoints: EveryStep` each outcome is written before the next call. With `Coalesced` the outcome of a finished
step may be written while the next step is called, and outcomes that have gathered by then go in one write. A crash
repeats at most these steps, with their idempotency keys (docs/decisions/0051-coalesced-checkpoints.md).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from functools import reduce
from typing import TypeAlias

from controller import errors, failpoints
from controller.api import names
from controller.api.update_stream import UpdateStream
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Status
from controller.clients.cluster import UPDATES
from controller.core.outcomes import Done, Outcome
from controller.core.steps import STEPS
from controller.logs import retrying
from controller.reconciler import metrics
from controller.reconciler.context import ShardContext
from controller.reconciler.update_reader import read

logger = logging.getLogger(__name__)

#: Computes the status after an outcome. It may be called again, for another status.
Record: TypeAlias = Callable[[Status], Status]

#: Seconds between tries to write an outcome while the API server refuses or is away.
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)
#: Seconds between reads of an object that is not understood, while an outcome waits to be written to it.
UNREADABLE_SECONDS = 2.0
#: Seconds for which a finished step's outcome waits for those of the next steps before it is written on its own.
LINGER_SECONDS = 0.25
#: A call that took longer is checkpointed before the next one, also with Coalesced: the write takes little time beside
#: the call, and finds what a person has changed meanwhile.
QUICK_SECONDS = 0.5
#: Writes of a shard at a time that have the outcome of one finished step only. Under load most outcomes wait, and go
#: into one write together.
EARLY_WRITES = 1


class UpdateGone(Exception):
    """The update was deleted, or deleted and made again: nothing is to be written any more."""


class Superseded(Exception):
    """Another controller has held the Lease since. It writes this status itself, or has done so."""


async def write_outcome(context: ShardContext, update: UserUpdate, record: Record, tenure: int) -> UserUpdate:
    """Record an outcome that was answered in that tenure of the Lease, however long it takes.

    Raises UpdateGone or Superseded.
    """
    tries = 0
    run, done = update.status.run, len(update.status.steps)
    while True:
        status = record(update.status)
        try:
            return await _patch(context, update, status, tenure)
        except errors.Conflict:
            metrics.CONFLICTS.labels(*context.stream_labels).inc()
            update = await _read_until_understood(context, update)
            if (
                update.status.finished
                or update.status.run != run
                or len(update.status.steps) != done
                or update.status == status
            ):
                # The outcome is of a step that is not in hand any more: somebody has finished the update; or the first
                # try was written, and only its answer was lost; or a new run has begun; or the API server was restored
                # from a backup.
                return update
        except errors.NotFound as error:
            raise UpdateGone from error
        except Superseded:
            raise
        except Exception as error:  # whatever it is: an outcome in hand is not given up
            _complain(update, error)
            await asyncio.sleep(RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)] * (1 + random.random()))
            tries += 1


async def write_status(context: ShardContext, update: UserUpdate, status: Status) -> UserUpdate:
    """Write a status that was decided on. Where the update has changed since, read it again: the caller decides anew.

    Raises UpdateGone, Superseded or errors.ApiError.
    """
    try:
        return await _patch(context, update, status, context.lease.tenure)
    except errors.Conflict:
        metrics.CONFLICTS.labels(*context.stream_labels).inc()
        return await _read_again(context, update)
    except errors.NotFound as error:
        raise UpdateGone from error


async def _patch(context: ShardContext, update: UserUpdate, status: Status, tenure: int) -> UserUpdate:
    """Try once. A write that records a delay has its turn (`delay_write`) for this try alone."""
    async with context.delay_write() if status.delayed else nullcontext():
        await context.lease.wait_held()
        if context.lease.tenure != tenure:
            raise Superseded
        try:
            body = await context.cluster.patch_status(
                UPDATES, update.namespace, update.name, status.for_status(), update.resource_version
            )
        except (errors.Forbidden, errors.Invalid) as error:
            context.refusals[update.name] = update, str(error)
            raise
    context.refusals.pop(update.name, None)
    failpoints.evaluate("controller.written")
    return update.with_status(status, int(body["metadata"]["resourceVersion"]))


async def _read_until_understood(context: ShardContext, update: UserUpdate) -> UserUpdate:
    """Read the update again, until this version understands it: an outcome waits to be written to it."""
    try:
        while (found := await _read_again(context, update)).unreadable and not found.status.finished:
            context.in_doubt[update.name] = found
            await asyncio.sleep(UNREADABLE_SECONDS)
    finally:
        context.in_doubt.pop(update.name, None)
    return found


async def _read_again(context: ShardContext, update: UserUpdate) -> UserUpdate:
    while True:
        try:
            current = await read(context.cluster, update.namespace, update.name)
        except errors.ApiError as error:
            _complain(update, error)
            await asyncio.sleep(RETRY_SECONDS[-1])
        else:
            if current is None or current.uid != update.uid:
                raise UpdateGone
            return current


def _complain(update: UserUpdate, error: Exception) -> None:
    stream = names.namespaced_name(update.namespace, update.spec.stream)
    retrying(logger, "Status not written, trying again", error, stream=stream, update=update.name)


class PendingOutcomes:
    """Outcomes of the update in hand that its status does not show yet, the oldest first.

    A write of the first of them may be under way.
    """

    __slots__ = ("_context", "_records", "_tenure", "_timer", "_writing", "_written")

    def __init__(self, context: ShardContext) -> None:
        self._context = context
        #: The update as the API server has it.
        self._written: UserUpdate | None = None
        self._records: tuple[Record, ...] = ()
        #: The Lease's tenure in which they were answered.
        self._tenure = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._records)

    @property
    def update(self) -> UserUpdate | None:
        """The update that these outcomes are of, as the API server has it; None where there is no outcome."""
        return self._written if self._records else None

    @property
    def ahead(self) -> UserUpdate:
        """The update as it stands with all outcomes, at the version that the API server has."""
        assert self._written
        status = _after(self._records, self._written.status)
        return self._written.with_status(status, self._written.resource_version)

    def add(self, update: UserUpdate, record: Record) -> None:
        """Keep an outcome."""
        if not self._records:
            self._tenure = self._context.lease.tenure
            known = self._written
            if known is None or known.uid != update.uid or known.resource_version < update.resource_version:
                self._written = update
        self._records = (*self._records, record)

    async def write(self) -> UserUpdate:
        """Write all outcomes, and return the update as the API server has it then.

        Raises UpdateGone or Superseded; the outcomes are dropped then.
        """
        self._stop_waiting()
        try:
            if writing := self._writing:
                await asyncio.wait([writing])
                writing.result()
            if self._records:
                await self._write()
            assert self._written
            return self._written
        finally:
            self._written, self._writing = None, None
            self._records = ()

    def write_soon(self, on_written: Callable[[UserUpdate], object]) -> None:
        """Begin a write in a while, unless `write` comes first.

        `on_written` gets the update after it, with the outcomes that are not written yet laid over it.
        """
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._begin, on_written)

    def drop(self) -> None:
        """Write nothing more: somebody else works on the stream."""
        self._stop_waiting()
        if self._writing:
            self._writing.cancel()

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _begin(self, on_written: Callable[[UserUpdate], object]) -> None:
        self._timer = None
        if self._context.early_writes < EARLY_WRITES:
            self._writing = asyncio.get_running_loop().create_task(self._write_early(on_written))
        else:
            self.write_soon(on_written)

    async def _write_early(self, on_written: Callable[[UserUpdate], object]) -> None:
        self._context.early_writes += 1
        try:
            await self._write()
        finally:
            self._context.early_writes -= 1
        self._writing = None  # one that failed stays, for `write` to raise its error
        on_written(self.ahead)

    async def _write(self) -> None:
        """Write all of them at once: after a Conflict either none of them is recorded or all are."""
        assert self._written
        batch = self._records
        self._written = await write_outcome(
            self._context, self._written, lambda status: _after(batch, status), self._tenure
        )
        self._records = self._records[len(batch) :]


def lingers(stream: UpdateStream, step: str, outcome: Outcome, duration: timedelta) -> bool:
    """Whether the next step may be called before this outcome, of a call that took so long, is written."""
    may_wait = stream.checkpoints == "Coalesced" and isinstance(outcome, Done) and step != STEPS[-1].name
    return may_wait and duration.total_seconds() < QUICK_SECONDS


def _after(records: tuple[Record, ...], status: Status) -> Status:
    return reduce(lambda status, record: record(status), records, status)
