"""The stream's unfinished UserUpdates, as the API server shows them: other replicas' and hand-made ones too.

A consistent LIST of whole objects says which links and slots are taken; from there a watch of metadata alone follows:
what leaves the selector is finished or gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from controller.api import names
from controller.api.user_update import unfinished_selector
from controller.bridge.context import ConsumerContext
from controller.bridge.links import Links
from controller.bridge.working_set import Slots
from controller.clients.cluster import UPDATES, Listing, WatchEvent
from controller.clients.reflector import reflect

logger = logging.getLogger(__name__)


class Unfinished:
    """Keeps `slots` and `links` true; calls `freed` whenever a slot may have become free."""

    def __init__(self, context: ConsumerContext, slots: Slots, links: Links, freed: Callable[[], None]) -> None:
        self._context = context
        self._cluster = context.cluster
        self._namespace = context.stream.namespace
        self._selector = unfinished_selector(context.stream.name)
        self._slots = slots
        self._links = links
        self._freed = freed
        self._watch: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """A LIST now, and the watch from there on. Raises ApiError."""
        listing = await self._cluster.list(UPDATES, self._namespace, field_selector=self._selector)
        self._links.listed(listing.items, listing.resource_version)
        users = {_name(body): names.user_label(body["spec"]["user"]) for body in listing.items}
        self._slots.listed(users, listing.resource_version)
        self.stop()
        self._watch = asyncio.create_task(self._follow(listing))
        self._watch.add_done_callback(self._ended)
        self._freed()

    def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    def _ended(self, watch: asyncio.Task[None]) -> None:
        if not watch.cancelled() and (error := watch.exception()) is not None:
            self._context.fail(error)

    async def _follow(self, begin: Listing) -> None:
        async for change in reflect(
            self._cluster,
            UPDATES,
            self._namespace,
            field_selector=self._selector,
            metadata_only=True,
            begin=Listing([], begin.resource_version),
        ):
            if isinstance(change, Listing):
                self._listed(change)
            else:
                self._changed(change)

    def _listed(self, listing: Listing) -> None:
        users = {_name(body): _lane(body) for body in listing.items}
        self._links.keep(users, listing.resource_version)
        self._slots.listed(users, listing.resource_version)
        self._freed()

    def _changed(self, event: WatchEvent) -> None:
        match event.type:
            case "ADDED" | "MODIFIED":
                self._slots.seen(_lane(event.object), _name(event.object), event.resource_version)
            case "DELETED":
                self._links.drop(_name(event.object))
                self._slots.gone(_name(event.object), event.resource_version)
                self._freed()
            case _:
                self._slots.reached(event.resource_version)


def _name(body: dict[str, Any]) -> str:
    name: str = body["metadata"]["name"]
    return name


def _lane(body: dict[str, Any]) -> str:
    label: str = (body["metadata"].get("labels") or {}).get(names.USER_LABEL, "")
    return label
