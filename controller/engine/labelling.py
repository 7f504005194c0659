"""The label by which controllers that share a stream select: set where a person who made an update has left it out.

Nothing but the speed of lists rests on it; whose an update is, is told by its user. So it is set without a Lease, and
what fails is left to the next look at the update.
"""

from __future__ import annotations

import asyncio
import logging

from controller import errors, names
from controller.cluster import UPDATES, Body, Cluster
from controller.logs import retrying

logger = logging.getLogger(__name__)

#: Labels that are set at a time.
CONCURRENCY = 8


class Labels:
    """Sets, in the background, what is missing or wrong."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._slots = asyncio.Semaphore(CONCURRENCY)
        #: By the update's uid.
        self._writes: dict[str, asyncio.Task[None]] = {}

    def check(self, body: Body) -> None:
        """An update as it was seen."""
        uid, wanted = body["metadata"]["uid"], str(names.bucket(body["spec"]["user"]))
        if (body["metadata"].get("labels") or {}).get(names.BUCKET_LABEL) == wanted or uid in self._writes:
            return
        write = asyncio.get_running_loop().create_task(self._set(body["metadata"], wanted))
        self._writes[uid] = write
        write.add_done_callback(lambda _: self._writes.pop(uid))

    async def _set(self, metadata: Body, wanted: str) -> None:
        # With the uid: another update of its name, made since, may be another user's.
        patch = {"metadata": {"uid": metadata["uid"], "labels": {names.BUCKET_LABEL: wanted}}}
        async with self._slots:
            try:
                await self._cluster.patch(UPDATES, metadata["namespace"], metadata["name"], patch)
            except (errors.NotFound, errors.Conflict):
                pass
            except errors.ApiError as error:
                retrying(logger, "Label not set", error, update=metadata["name"])
