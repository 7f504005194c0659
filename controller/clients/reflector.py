"""LIST, then WATCH from there, for as long as it is asked: what the API server has, and each change of it.

A watch that ended in good order is resumed where it was. After any error everything is listed again: the API server may
have gone back in time (etcd restored from a snapshot), and a list is the one way to see it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from controller.clients.cluster import Cluster, Listing, Resource, WatchEvent
from controller.errors import ApiError, Expired
from controller.logs import retrying

logger = logging.getLogger(__name__)

FIRST_DELAY = 0.1
MAX_DELAY = 5.0


async def reflect(
    cluster: Cluster,
    resource: Resource,
    namespace: str | None = None,
    *,
    field_selector: str = "",
    label_selector: str = "",
    metadata_only: bool = False,
    begin: Listing | None = None,
    failed: Callable[[ApiError], None] | None = None,
) -> AsyncIterator[Listing | WatchEvent]:
    """A Listing first and whenever the thread was lost, else events, bookmarks included. Never ends, raises nothing.

    With `begin`, a listing that the caller has: it is not repeated, and the watch goes on from it. `failed` is called
    with whatever a list or a watch was answered instead; each cause is logged once, until a list succeeds.
    """
    delay = FIRST_DELAY
    told = ""
    version = begin.resource_version if begin else None
    while True:
        try:
            if version is None:
                listing = await cluster.list(
                    resource,
                    namespace,
                    field_selector=field_selector,
                    label_selector=label_selector,
                    metadata_only=metadata_only,
                )
                version, told = listing.resource_version, ""
                yield listing
            async for event in cluster.watch(
                resource,
                namespace,
                resource_version=version,
                field_selector=field_selector,
                label_selector=label_selector,
                metadata_only=metadata_only,
            ):
                version, delay = event.resource_version, FIRST_DELAY
                yield event
            await asyncio.sleep(FIRST_DELAY)
        except Expired:
            version = None
            await asyncio.sleep(FIRST_DELAY)
        except ApiError as error:
            if (cause := str(error)) != told:
                retrying(logger, "Watch broke", error, kind=resource.plural, namespace=namespace)
            told = cause
            if failed:
                failed(error)
            version = None
            await asyncio.sleep(delay)
            delay = min(2 * delay, MAX_DELAY)
