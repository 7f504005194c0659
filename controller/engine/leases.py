"""What this process has seen of the Leases of all streams, and when: one LIST serves all who wait for one of them."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from controller import errors, names
from controller.cluster import LEASES, Body, Cluster
from controller.logs import fields

logger = logging.getLogger(__name__)

#: Seconds for which a Lease that is not renewed keeps others off.
DURATION = 12
#: Seconds for one request about Leases.
TIMEOUT = 4.0
#: Seconds between looks of those who wait: what a take-over after a graceful stop costs.
POLL_PERIOD = 0.5
#: Seconds after which a Lease that is not listed, though it was seen, is forgotten.
FORGET_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Sighting:
    """One version of a Lease."""

    version: str
    #: Empty where nobody holds it.
    holder: str
    duration: float
    #: When (monotonic) it was seen first: no clock of others counts.
    since: float

    @property
    def free_since(self) -> float:
        """When it was given away, or had not been renewed for its duration; that may be in the future."""
        return self.since + self.duration if self.holder else self.since

    @property
    def free(self) -> bool:
        return time.monotonic() > self.free_since or not self.holder


class Leases:
    """The Leases that bear the label of a stream, as far as somebody asks."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._seen: dict[tuple[str, str], Sighting] = {}
        #: What the last LIST has shown.
        self._listed: set[tuple[str, str]] = set()
        self._looking: asyncio.Task[None] | None = None

    def seen(self, namespace: str, name: str) -> Sighting | None:
        """What was seen last, deleted since or not: who held it may not know yet."""
        return self._seen.get((namespace, name))

    def listed(self, namespace: str, name: str) -> bool:
        """Whether the last LIST has shown it. One that an earlier version made has no label, and is never listed."""
        return (namespace, name) in self._listed

    def observe(self, body: Body) -> Sighting:
        metadata, spec = body["metadata"], body.get("spec") or {}
        key, version = (metadata["namespace"], metadata["name"]), metadata["resourceVersion"]
        known = self._seen.get(key)
        if known is None or known.version != version:
            duration = spec.get("leaseDurationSeconds") or DURATION
            known = Sighting(version, spec.get("holderIdentity") or "", duration, time.monotonic())
            self._seen[key] = known
        return known

    async def look(self) -> None:
        """Wait for half a second; then they are listed again, once for all who wait. What fails is logged."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        await asyncio.shield(self._looking)

    async def others(self, namespace: str, stream: str, shape: frozenset[str]) -> dict[str, Sighting]:
        """The stream's Leases but for those of that shape, by a consistent read. Raises ApiError."""
        selector = f"{names.STREAM_LABEL}={stream}"
        listing = await self._cluster.list(LEASES, namespace, label_selector=selector)
        for body in listing.items:
            self.observe(body)
        undivided = names.lease_name(stream)
        if undivided not in shape and undivided not in {body["metadata"]["name"] for body in listing.items}:
            try:
                self.observe(await self._cluster.get(LEASES, namespace, undivided, timeout=TIMEOUT))
            except errors.NotFound:
                pass
        return {
            name: sighting
            for (where, name), sighting in self._seen.items()
            if where == namespace and name not in shape and (name == undivided or name.startswith(f"{undivided}."))
        }

    async def _look(self) -> None:
        await asyncio.sleep(POLL_PERIOD)
        try:
            async with asyncio.timeout(TIMEOUT):
                listing = await self._cluster.list(LEASES, label_selector=names.STREAM_LABEL)
        except (errors.ApiError, TimeoutError) as error:
            logger.debug("Leases not listed", extra=fields(cause=str(error)))
            return
        for body in listing.items:
            self.observe(body)
        self._listed = {(body["metadata"]["namespace"], body["metadata"]["name"]) for body in listing.items}
        old = time.monotonic() - FORGET_SECONDS
        self._seen = {key: seen for key, seen in self._seen.items() if key in self._listed or seen.since > old}
