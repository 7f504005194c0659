"""Watches the metadata of running and finished updates, which kopf's watch does not show, for what people change.

kopf needs a third of a millisecond for an event, and most events of such updates are of our own writes. So they are
watched without kopf, and only their metadata. An update whose request or spec has changed is read.

Unlike `clients.reflector` it asks for no list of all these objects, only for a version to watch from: the shards'
workers list what they need.
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

#: The phases that kopf does not watch: all but absent and Waiting.
SELECTOR = f"status.phase!=,status.phase!={Phase.WAITING}"
FIRST_DELAY, MAX_DELAY = 0.1, 15.0
#: Updates whose changes by people are remembered.
REMEMBERED = 10_000


class MetadataWatch:
    """Watches the metadata of these updates, in all namespaces of the scope."""

    def __init__(
        self, cluster: Cluster, scope: Scope, observe: Callable[[str, Body], None], relist: Callable[[], None]
    ) -> None:
        """`observe` gets each update that a person has changed; `relist` is called when changes may be missed."""
        self._cluster = cluster
        self._scope = scope
        self._observe = observe
        self._relist = relist
        #: Request and generation of updates with a request, or with another spec than at their creation, by uid.
        self._changes: dict[str, tuple[str | None, int]] = {}

    async def follow(self) -> None:
        """Watch for ever. Updates that exist already are listed by the shards' workers when they begin."""
        await for_each(self._scope, self._follow)

    async def _follow(self, namespace: str | None) -> None:
        version, delay = None, FIRST_DELAY
        while True:
            try:
                if version is None:
                    version = await self._now(namespace)
                    self._relist()
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
        if kind == "MODIFIED":  # ADDED means that a controller has just written its phase, and has read the rest
            await self._look(metadata["namespace"], metadata["name"])
        self._changes[metadata["uid"]] = change

    async def _look(self, namespace: str, name: str) -> None:
        try:
            self._observe("MODIFIED", await self._cluster.get(UPDATES, namespace, name))
        except errors.NotFound:
            pass
