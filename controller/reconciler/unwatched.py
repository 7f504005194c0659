"""What people change of updates that kopf's watch does not show: running ones, and finished ones.

kopf takes a third of a millisecond for an event, and most events of such updates are echoes of our own writes. So they
are watched without kopf, their metadata alone, and an update is read where its request or its spec has changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from controller import errors
from controller.api import names
from controller.api.user_update_status import Phase
from controller.clients.cluster import UPDATES, Body, Cluster
from controller.clients.namespaces import for_each
from controller.config import Scope
from controller.logs import fields

logger = logging.getLogger(__name__)

#: All that kopf does not watch: not absent, not Waiting.
SELECTOR = f"status.phase!=,status.phase!={Phase.WAITING}"
FIRST_DELAY, MAX_DELAY = 0.1, 15.0
#: Updates of which it is remembered what people have changed.
REMEMBERED = 10_000


class Unwatched:
    def __init__(
        self, cluster: Cluster, scope: Scope, observe: Callable[[str, Body], None], doubt: Callable[[], None]
    ) -> None:
        """`observe` gets what has changed, `doubt` is called where changes may have been missed."""
        self._cluster = cluster
        self._scope = scope
        self._observe = observe
        self._doubt = doubt
        #: Request and generation of updates that have a request or another spec than they were made with, by uid.
        self._changes: dict[str, tuple[str | None, int]] = {}

    async def follow(self) -> None:
        """For ever, from now on: what is there already, the engines list when they begin."""
        await for_each(self._scope, self._follow)

    async def _follow(self, namespace: str | None) -> None:
        version, delay = None, FIRST_DELAY
        while True:
            try:
                if version is None:
                    version = await self._now(namespace)
                    self._doubt()
                async for event in self._cluster.watch(
                    UPDATES, namespace, resource_version=version, field_selector=SELECTOR, metadata_only=True
                ):
                    await self._take(event.type, event.object)
                    version, delay = event.resource_version, FIRST_DELAY
                await asyncio.sleep(FIRST_DELAY)
            except errors.Expired:
                version = None
            except errors.ApiError as error:
                logger.debug("Watch of running and finished updates broke", extra=fields(cause=str(error)))
                await asyncio.sleep(delay)
                delay = min(2 * delay, MAX_DELAY)

    async def _now(self, namespace: str | None) -> int:
        async for listing in self._cluster.pages(UPDATES, namespace, metadata_only=True, page=1):
            return listing.resource_version
        raise errors.Unavailable("no answer to a list")

    async def _take(self, kind: str, body: Body) -> None:
        metadata = body["metadata"]
        if kind not in ("ADDED", "MODIFIED"):
            self._changes.pop(metadata.get("uid"), None)
            return
        change = (metadata.get("annotations") or {}).get(names.REQUEST_ANNOTATION), metadata.get("generation", 1)
        if change == self._changes.get(metadata["uid"], (None, 1)):
            return
        if len(self._changes) >= REMEMBERED:
            self._changes.clear()
        if kind == "MODIFIED":  # what has just got its phase was as it is when it was written
            await self._look(metadata["namespace"], metadata["name"])
        self._changes[metadata["uid"]] = change

    async def _look(self, namespace: str, name: str) -> None:
        try:
            self._observe("MODIFIED", await self._cluster.get(UPDATES, namespace, name))
        except errors.NotFound:
            pass
