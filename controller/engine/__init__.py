"""`python -m controller run`: kopf watches, an engine for each UpdateStream works.

handlers (kopf) → engines → parts → engine (Lease, list) → registry → lane (decide, call, checkpoint) → the next in line
"""

from __future__ import annotations

import asyncio
from functools import partial

from controller.cluster import Cluster
from controller.config import Settings
from controller.downstream import Downstream
from controller.engine import handlers
from controller.engine.engines import Engines
from controller.serving import Health


async def run(settings: Settings, stop: asyncio.Event, health: Health) -> None:
    """Work on all streams of the cluster until `stop`. Raises ConfigError where there is no way to the API server."""
    async with Cluster.connect() as cluster, Downstream() as downstream:
        engines = Engines(cluster, downstream, settings.identity)
        health.unsettled, health.untrusted = engines.unsettled, lambda: cluster.trust.lost
        async with asyncio.TaskGroup() as group:
            group.create_task(handlers.watch(cluster, engines, stop, partial(_get_ready, engines, health)))
            group.create_task(engines.run(stop))


async def _get_ready(engines: Engines, health: Health) -> None:
    await engines.begin()
    health.ready = True
