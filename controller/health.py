"""Serves /metrics, /healthz and /readyz of a process."""

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
    """The health of the process: its components set it, and `serve` reports it."""

    #: Whether the process has found everything that it needs once, so that it works, or stands by.
    ready: bool = False
    #: Whether the API server's certificate has been refused for minutes: a restart may read another certificate
    #: authority.
    untrusted: Callable[[], bool] = bool
    #: Streams (`namespace/name`) that this replica has not started yet, that no other replica works on, and whose
    #: status gives no reason for it.
    pending: Callable[[], Sequence[str]] = tuple


@asynccontextmanager
async def serve(settings: Settings, health: Health) -> AsyncIterator[None]:
    """Answer until the block is left.

    The process's event loop answers /healthz, so an answer shows that the loop runs. An API server that is away is no
    reason for a restart, so it does not fail /healthz; a certificate of the API server that stays untrusted does.

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
        if streams := health.pending():
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
