"""Lists objects and then watches them, for ever, as client-go's Reflector does.

A watch that the API server ended is resumed at its last version. After an error everything is listed again: the API
server may have gone back in time (etcd restored from a snapshot), and only a list shows that.
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
    """Yields a Listing first and after each error, and between them the events of the watch, bookmarks included.

    Never ends and raises nothing. `begin` is a listing that the caller has already: it is not yielded, and the watch
    begins at its version. `failed` is called with each error of a list or a watch. Each cause is logged once until a
    list succeeds.
    """
    delay = FIRST_DELAY
    logged = ""
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
                version, logged = listing.resource_version, ""
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
            if (cause := str(error)) != logged:
                retrying(logger, "Watch broke", error, kind=resource.plural, namespace=namespace)
            logged = cause
            if failed:
                failed(error)
            version = None
            await asyncio.sleep(delay)
            delay = min(2 * delay, MAX_DELAY)
