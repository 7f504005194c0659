"""Keeps the working set as the API server has it: updates of other replicas and hand-made ones too.

A consistent LIST of whole objects says which updates are unfinished. A watch of their metadata follows from there: an
update that leaves the watch's selector is finished or deleted.
"""

from __future__ import annotations

import asyncio
from typing import Any

from controller.api import names
from controller.api.user_update import unfinished_selector
from controller.bridge.context import ConsumerContext
from controller.bridge.dispatch import Dispatcher
from controller.bridge.pausing import Pausing
from controller.clients.cluster import UPDATES, Listing, WatchEvent
from controller.clients.reflector import reflect


class WorkingSetReflector:
    """Wakes the dispatcher and `Pausing` whenever a slot may have become free."""

    def __init__(self, context: ConsumerContext, dispatcher: Dispatcher, pausing: Pausing) -> None:
        self._context = context
        self._namespace = context.stream.namespace
        self._selector = unfinished_selector(context.stream.name)
        self._working_set = dispatcher.working_set
        self._dispatcher = dispatcher
        self._pausing = pausing
        self._watch: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """List now, and watch from there on. Raises ApiError."""
        cluster, asked_at = self._context.cluster, self._working_set.version
        listing = await cluster.list(UPDATES, self._namespace, field_selector=self._selector)
        self._working_set.listed(listing.items, listing.resource_version, asked_at)
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
            self._context.cluster,
            UPDATES,
            self._namespace,
            field_selector=self._selector,
            metadata_only=True,
            begin=Listing([], begin.resource_version),
        ):
            if isinstance(change, Listing):
                labels = {_name(body): _label(body) for body in change.items}
                self._working_set.listed_labels(labels, change.resource_version)
                self._freed()
            else:
                self._changed(change)

    def _changed(self, event: WatchEvent) -> None:
        match event.type:
            case "ADDED" | "MODIFIED":
                self._working_set.shown(_label(event.object), _name(event.object), event.resource_version)
            case "DELETED":
                self._working_set.gone(_name(event.object), event.resource_version)
                self._freed()
            case _:
                self._working_set.reached(event.resource_version)

    def _freed(self) -> None:
        self._dispatcher.pump()
        self._pausing.slot_freed()


def _name(body: dict[str, Any]) -> str:
    name: str = body["metadata"]["name"]
    return name


def _label(body: dict[str, Any]) -> str:
    label: str = (body["metadata"].get("labels") or {}).get(names.USER_LABEL, "")
    return label
