"""Whether somebody works on a stream: the Leases that controllers renew for it, looked at now and then."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from controller import errors, names
from controller.cluster import LEASES, Cluster
from controller.logs import fields
from controller.presence import SILENCE_SECONDS, Heard
from controller.streams import UpdateStream

logger = logging.getLogger(__name__)

#: Seconds between looks: one for all streams, of metadata alone, since another version is a renewal.
LOOK_SECONDS = 15.0


class Controllers:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        #: By namespace and name of the Lease.
        self._heard: Heard[tuple[str, str]] = Heard(LOOK_SECONDS)

    def missing(self, stream: UpdateStream) -> str:
        """What to say where a Lease of the stream has not been renewed for a minute; else, or unknown, empty."""
        now = time.monotonic()
        for shard in range(stream.shards):
            lease = names.lease_name(stream.name, shard, stream.shards)
            if self._heard.silence((stream.namespace, lease), now) >= SILENCE_SECONDS:
                return (
                    f"no controller has renewed the Lease {lease} for {SILENCE_SECONDS:.0f} s: look at "
                    f"the controllers' pods, and at kubectl get leases -n {stream.namespace} -l {names.STREAM_LABEL}"
                )
        return ""

    async def follow(self, looked: Callable[[], None]) -> None:
        """Look for ever; `looked` is called after each look. What fails is logged once."""
        failing = False
        while True:
            try:
                listing = await self._cluster.list(LEASES, label_selector=names.STREAM_LABEL, metadata_only=True)
            except errors.ApiError as error:
                if not failing:
                    logger.warning("Leases of streams not listed", extra=fields(cause=str(error)))
                failing = True
            else:
                failing = False
                found = [body["metadata"] for body in listing.items]
                versions = {(each["namespace"], each["name"]): each["resourceVersion"] for each in found}
                self._heard.look(versions, time.monotonic())
                looked()
            await asyncio.sleep(LOOK_SECONDS)
