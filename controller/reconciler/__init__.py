"""`python -m controller run`: kopf watches, an engine for each UpdateStream works.

handlers (kopf) → engines → parts → engine (Lease, list) → registry → lane (decide, call, checkpoint) → the next in line
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from controller.clients.cluster import Cluster
from controller.clients.downstream import Downstream
from controller.clients.process_lease import ProcessLease
from controller.config import Settings
from controller.health import Health
from controller.reconciler import handlers
from controller.reconciler.shards import Engines

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


async def run(settings: Settings, stop: asyncio.Event, health: Health) -> None:
    """Work on the streams of the scope until `stop`. Raises ConfigError where there is no way to the API server."""
    async with Cluster.connect() as cluster, Downstream() as downstream:
        process_lease = ProcessLease(cluster, "controller", settings.identity)
        engines = Engines(cluster, downstream, settings.identity, process_lease.namespace, settings.scope)
        health.pending, health.untrusted = engines.unsettled, lambda: cluster.trust.lost
        beside = [asyncio.create_task(_for_ever(work)) for work in (process_lease.run, *engines.works())]
        try:
            async with asyncio.TaskGroup() as group:
                on_ready = partial(_get_ready, engines, health)
                group.create_task(handlers.watch(cluster, engines, stop, on_ready, engines.namespaces))
                group.create_task(engines.run(stop))
        finally:
            for task in beside:
                task.cancel()
            await process_lease.release()


async def _for_ever(work: Callable[[], Awaitable[None]]) -> None:
    """An unexpected error is logged, and tried again: the Leases that are held are kept by others than these."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("Unexpected error, trying again")
            await asyncio.sleep(RETRY_SECONDS)


async def _get_ready(engines: Engines, health: Health) -> None:
    await engines.begin()
    health.ready = True
