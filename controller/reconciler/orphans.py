"""Updates whose UpdateStream is missing: the status of each user's head says so. People may skip or cancel them.

They need no Lease: nothing is called, and resourceVersion fences the writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime

from controller import errors
from controller.api.user_update import UserUpdate, unfinished_selector
from controller.clients.cluster import UPDATES, Cluster
from controller.clients.event_recorder import EventRecorder
from controller.core.decisions import Finish, RequeueAfter, decide, refusal
from controller.core.user_queue import UserQueue
from controller.logs import retrying
from controller.reconciler.update_events import UpdateEvents
from controller.reconciler.update_reader import parse

logger = logging.getLogger(__name__)

#: Seconds after which a stream that was not seen is missing: at a start, streams and updates are listed side by side.
GRACE_SECONDS = 2.0


class Orphans:
    """Marks the updates of streams that are missing, each `(namespace, stream)` some seconds after it was added."""

    def __init__(self, cluster: Cluster, recorder: EventRecorder, exists: Callable[[tuple[str, str]], bool]) -> None:
        """`exists` says whether there is such a stream, whether this version understands it or not."""
        self._cluster = cluster
        self._events = UpdateEvents(recorder)
        self._exists = exists
        self._waiting: dict[tuple[str, str], asyncio.Task[None]] = {}

    def add(self, key: tuple[str, str]) -> None:
        if key not in self._waiting:
            self._waiting[key] = asyncio.get_running_loop().create_task(self._mark_later(key))

    def stop(self) -> None:
        for task in self._waiting.values():
            task.cancel()

    async def _mark_later(self, key: tuple[str, str]) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        del self._waiting[key]  # an update that comes from here on is added anew: the list may miss it
        if self._exists(key):
            return
        try:
            await self._mark(*key)
        except Exception as error:  # whatever it is, it is tried again
            retrying(logger, "Updates without a stream not marked", error, stream=key)
            self.add(key)

    async def _mark(self, namespace: str, stream: str) -> None:
        listing = await self._cluster.list(UPDATES, namespace, field_selector=unfinished_selector(stream))
        queues: dict[str, UserQueue] = defaultdict(UserQueue)
        for update in map(parse, listing.items):
            queues[update.spec.user].push(update)
        for queue in queues.values():
            for requested in queue.requested:
                await self._act(requested, queue)
            if head := queue.head:
                await self._act(head, queue)

    async def _act(self, update: UserUpdate, queue: UserQueue) -> None:
        """Write the status of an update: what a person requests, or why that cannot be done, or that the head waits.

        Where the API server refuses the write, the updates of the stream are marked again later. The other updates are
        written all the same.
        """
        after = update.spec.source.after if update.spec.source else None  # it is over: the list would show it
        found, now = update, datetime.now(UTC)
        if refused := refusal(update, now):
            update = update.with_status(refused, update.resource_version)
            queue.push(update)
        decision = decide(update, queue, None, now, follows=after)
        status = decision.status if isinstance(decision, RequeueAfter | Finish) else update.status
        if status == found.status:
            return
        try:
            body = await self._cluster.patch_status(
                UPDATES, update.namespace, update.name, status.for_status(), update.resource_version
            )
        except errors.Unavailable:
            raise
        except errors.ApiError as error:
            if not isinstance(error, errors.Conflict | errors.NotFound):
                retrying(logger, "Update not marked", error, update=update.name)
            self.add((update.namespace, update.spec.stream))
            return
        written = update.with_status(status, int(body["metadata"]["resourceVersion"]))
        self._events.update_changed(written, found.status)
        if status.finished:
            queue.remove(update.name)
        else:
            queue.push(written)
