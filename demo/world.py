"""Follows the demo while it plays: the updates, by a watch of the API server, and the downstream's counters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from controller import errors
from controller.clients.cluster import UPDATES, Cluster
from demo.evidence import Body
from demo.scenario import NAMESPACE

STATS_SECONDS = 0.1
RETRY_SECONDS = 0.2


@dataclass(slots=True)
class World:
    """The present state, kept up to date while it is followed."""

    updates: dict[str, Body] = field(default_factory=dict)
    #: Counters of the downstream: calls under way, calls so far.
    stats: dict[str, Any] = field(default_factory=dict)

    def done(self, user: str | None = None) -> int:
        """The number of finished updates, of one user or of all."""
        return sum(
            body.get("status", {}).get("phase") == "Succeeded" and user in (None, body["spec"]["user"])
            for body in self.updates.values()
        )

    def told_to_wait(self, user: str) -> bool:
        """Whether an update of the user waits because the downstream is busy."""
        return any(
            body["spec"]["user"] == user and body.get("status", {}).get("busyCount") for body in self.updates.values()
        )

    @property
    def in_flight(self) -> int:
        """The number of calls that ran a moment ago."""
        return int(self.stats.get("inFlight", 0))

    @asynccontextmanager
    async def followed(self, cluster: Cluster, downstream: httpx.AsyncClient) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._watch(cluster)), asyncio.create_task(self._count(downstream))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _watch(self, cluster: Cluster) -> None:
        while True:
            with contextlib.suppress(errors.ApiError):
                listing = await cluster.list(UPDATES, NAMESPACE)
                self.updates = {body["metadata"]["name"]: body for body in listing.items}
                version = listing.resource_version
                async for event in cluster.watch(UPDATES, NAMESPACE, resource_version=version):
                    if event.type in ("ADDED", "MODIFIED"):
                        self.updates[event.object["metadata"]["name"]] = event.object
            await asyncio.sleep(RETRY_SECONDS)

    async def _count(self, downstream: httpx.AsyncClient) -> None:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                self.stats = (await downstream.get("/stats")).json()
            await asyncio.sleep(STATS_SECONDS)
