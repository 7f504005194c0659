"""Sets labels that updates made by hand lack.

People select updates by the label of the user, and kubectl shows it, as a user may have a thousand characters. The
shards of a stream select by the bucket, which only makes their lists shorter: `spec.user` says which user an update
belongs to. So both labels are set without a Lease, and a write that fails is tried again at the next look at the
update.
"""

from __future__ import annotations

import asyncio
import logging

from controller import errors
from controller.api import names
from controller.clients.cluster import UPDATES, Body, Cluster
from controller.logs import retrying

logger = logging.getLogger(__name__)

#: Labels that are set at a time.
CONCURRENCY = 8


class LabelWriter:
    """Sets labels that are missing or wrong, in the background."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._slots = asyncio.Semaphore(CONCURRENCY)
        #: Writes under way, by the update's uid.
        self._writes: dict[str, asyncio.Task[None]] = {}

    def check(self, body: Body, *, divided: bool) -> None:
        """Look at an update as it was read; `divided`: its stream has several shards."""
        metadata, spec = body["metadata"], body["spec"]
        labels, wanted = metadata.get("labels") or {}, {}
        if divided and labels.get(names.BUCKET_LABEL) != (bucket := str(names.bucket(spec["user"]))):
            wanted[names.BUCKET_LABEL] = bucket
        if "source" not in spec and names.USER_LABEL not in labels:
            wanted[names.USER_LABEL] = names.user_label(spec["user"])
        uid = metadata["uid"]
        if not wanted or uid in self._writes:
            return
        write = asyncio.get_running_loop().create_task(self._set(metadata, wanted))
        self._writes[uid] = write
        write.add_done_callback(lambda _: self._writes.pop(uid))

    async def _set(self, metadata: Body, wanted: dict[str, str]) -> None:
        # With the uid: another update of its name, made since, may be another user's.
        patch = {"metadata": {"uid": metadata["uid"], "labels": wanted}}
        async with self._slots:
            try:
                await self._cluster.patch(UPDATES, metadata["namespace"], metadata["name"], patch)
            except (errors.NotFound, errors.Conflict):
                pass
            except errors.ApiError as error:
                retrying(logger, "Label not set", error, update=metadata["name"])
