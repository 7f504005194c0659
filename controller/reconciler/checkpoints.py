"""Writing what was decided or answered to an update's status; resourceVersion fences every write.

Between `lane`, which has an outcome in hand, and the API server. An outcome is never discarded: a Conflict is read
again and recorded anew, an outage is waited out, and what somebody else has recorded already is left as it is.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeAlias

from controller import errors, failpoints
from controller.api import names
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Status
from controller.clients.cluster import UPDATES
from controller.logs import retrying
from controller.reconciler import metrics
from controller.reconciler.context import StreamContext
from controller.reconciler.parsing import read

logger = logging.getLogger(__name__)

#: What an outcome makes of a status; it may be asked again, for another one.
Record: TypeAlias = Callable[[Status], Status]

#: Seconds between tries to write an outcome while the API server refuses or is away.
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)
#: Seconds between looks at an object that is not understood, and that an outcome is to be written to.
UNREADABLE_SECONDS = 2.0


class Gone(Exception):
    """The update was deleted, or deleted and made again: what was to be written has no place any more."""


class Superseded(Exception):
    """Another controller has held the stream since: it has done, or will do, this itself."""


async def write_outcome(context: StreamContext, update: UserUpdate, record: Record, tenure: int) -> UserUpdate:
    """Record an outcome that was answered in that tenure of the Lease, however long it takes.

    Raises Gone or Superseded.
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
                # Somebody has finished it; or a first try had been done, and only its answer was lost; or a new run has
                # begun; or the API server has gone back in time: the outcome is of a step that is not in hand any more.
                return update
        except errors.NotFound as error:
            raise Gone from error
        except Superseded:
            raise
        except Exception as error:  # whatever it is: an outcome in hand is not given up
            _complain(update, error)
            await asyncio.sleep(RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)] * (1 + random.random()))
            tries += 1


async def write_status(context: StreamContext, update: UserUpdate, status: Status) -> UserUpdate:
    """Write a status that was decided on, or read the update again where that is out of date: then decide anew.

    Raises Gone, Superseded or errors.ApiError.
    """
    try:
        return await _patch(context, update, status, context.lease.tenure)
    except errors.Conflict:
        metrics.CONFLICTS.labels(*context.stream_labels).inc()
        return await _read_again(context, update)
    except errors.NotFound as error:
        raise Gone from error


async def _patch(context: StreamContext, update: UserUpdate, status: Status, tenure: int) -> UserUpdate:
    """One try; the turn of a delay is for this try alone."""
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


async def _read_until_understood(context: StreamContext, update: UserUpdate) -> UserUpdate:
    """Waits as long as the object is one that this version does not understand, with the outcome in hand."""
    try:
        while (found := await _read_again(context, update)).unreadable and not found.status.finished:
            context.in_doubt[update.name] = found
            await asyncio.sleep(UNREADABLE_SECONDS)
    finally:
        context.in_doubt.pop(update.name, None)
    return found


async def _read_again(context: StreamContext, update: UserUpdate) -> UserUpdate:
    while True:
        try:
            current = await read(context.cluster, update.namespace, update.name)
        except errors.ApiError as error:
            _complain(update, error)
            await asyncio.sleep(RETRY_SECONDS[-1])
        else:
            if current is None or current.uid != update.uid:
                raise Gone
            return current


def _complain(update: UserUpdate, error: Exception) -> None:
    stream = names.namespaced_name(update.namespace, update.spec.stream)
    retrying(logger, "Status not written, trying again", error, stream=stream, update=update.name)
