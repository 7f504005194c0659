"""UserBacklogs whose stream is gone: nobody works them off, so nobody else would let go of a deleted one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from controller import names
from controller.bridge.census import Census, Key
from controller.cluster import BACKLOGS, Cluster
from controller.errors import ApiError, Conflict, NotFound
from controller.logs import retrying

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0


async def release_orphans(cluster: Cluster, backlogs: Census, exists: Callable[[Key], bool]) -> None:
    """Take the finalizer off deleted ones without a stream, for as long as this runs."""
    while True:
        for namespace, name in list(backlogs.deleted):
            try:
                await _release(cluster, namespace, name, exists)
            except (NotFound, Conflict):
                pass
            except ApiError as error:
                retrying(logger, "UserBacklog not let go", error, backlog=f"{namespace}/{name}")
        await asyncio.sleep(LOOK_SECONDS)


async def _release(cluster: Cluster, namespace: str, name: str, exists: Callable[[Key], bool]) -> None:
    body = await cluster.get(BACKLOGS, namespace, name)
    if exists((namespace, body["spec"]["stream"])):
        return
    metadata = body["metadata"]
    kept = [entry for entry in metadata.get("finalizers") or () if entry != names.BACKLOG_FINALIZER]
    patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": kept or None}}
    await cluster.patch(BACKLOGS, namespace, name, patch)
