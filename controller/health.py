"""GET /metrics, /healthz and /readyz of a process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import prometheus_client
from aiohttp import web

from controller.config import Settings
from controller.errors import ConfigError


@dataclass(slots=True)
class Health:
    #: All that the process needs has been found once; it does its work, or stands by for it.
    ready: bool = False
    #: Whether the API server's certificate has been refused for minutes: a restart may read another authority.
    untrusted: Callable[[], bool] = bool
    #: Streams that are neither taken up here nor another replica's, and that nothing is said against either.
    unsettled: Callable[[], Sequence[str]] = tuple


@asynccontextmanager
async def serve(settings: Settings, health: Health) -> AsyncIterator[None]:
    """Answer until the block is left. /healthz is answered by the event loop itself: it lives while that turns, be the
    API server away or not; only one whose certificate stays untrusted ends it.

    Raises ConfigError where the port is taken.
    """

    async def metrics(_: web.Request) -> web.Response:
        body = prometheus_client.generate_latest()
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        if health.untrusted():
            return web.Response(status=503, text="the API server's certificate has not been trusted for minutes\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if not health.ready:
            return web.Response(status=503, text="not ready\n")
        if streams := health.unsettled():
            return web.Response(status=503, text=f"not ready: {len(streams)} streams, {streams[0]} first\n")
        return web.Response(text="ready\n")

    app = web.Application()
    paths = [web.get(path, metrics) for path in ("/", "/metrics")]
    app.add_routes([*paths, web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.metrics_host, settings.metrics_port).start()
    except OSError as error:
        await runner.cleanup()
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise ConfigError(
            f"cannot serve metrics at {where}: {error.strerror}. Choose another --metrics-address"
        ) from error
    try:
        yield
    finally:
        await runner.cleanup()
