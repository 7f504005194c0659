"""Hosts whose names resolve slowly, or never, keep nobody else waiting: no thread stands behind a name."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from controller.api.update_stream import StepSpec
from controller.clients.downstream import Downstream
from controller.core.outcomes import Done, Retry
from controller.core.steps import PROFILE
from tests.support.eventually import Stopwatch
from tests.support.wire import made, wired

#: Names that are asked for at a time: more than a pool of threads has on any machine.
NAMES = 60


@asynccontextmanager
async def silent_nameserver() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Its port, and the questions that came; it answers none."""
    questions: list[bytes] = []

    class Silent(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, _: object) -> None:
            questions.append(data)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Silent, ("127.0.0.1", 0), family=socket.AF_INET
    )
    try:
        yield transport.get_extra_info("sockname")[1], questions
    finally:
        transport.close()


async def test_names_that_nobody_resolves_keep_no_other_call_waiting(tmp_path: Path) -> None:
    async with silent_nameserver() as (port, questions), wired(tmp_path) as wire, AsyncExitStack() as closing:

        def connector(context: ssl.SSLContext, force_close: bool) -> aiohttp.BaseConnector:
            resolver = aiohttp.AsyncResolver(nameservers=["127.0.0.1"], udp_port=port, tcp_port=port)
            closing.push_async_callback(resolver.close)
            return aiohttp.TCPConnector(limit=0, force_close=force_close, resolver=resolver)

        async with Downstream(connector) as client:
            endpoints = [StepSpec(f"http://slow-{number}.example/", timeout_seconds=3) for number in range(NAMES)]
            stuck = [
                asyncio.create_task(client.call(PROFILE, endpoint, made(), f"k{number}"))
                for number, endpoint in enumerate(endpoints)
            ]
            await wire.until(lambda: len(questions) >= NAMES)
            watch = Stopwatch()
            by_name = StepSpec(wire.url.replace("127.0.0.1", "localhost") + "/profile", timeout_seconds=3)
            assert isinstance(await client.call(PROFILE, by_name, made(), "free"), Done)
            assert watch.seconds < 1.0
            assert all(isinstance(outcome, Retry) for outcome in await asyncio.gather(*stuck))


def test_names_are_resolved_without_threads() -> None:
    """What aiohttp takes by itself, for the API server's connections too."""
    assert aiohttp.DefaultResolver is aiohttp.AsyncResolver
