"""The proxy passes everything, and cuts, stalls and delays as it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from devenv.layout import HOST
from tests.chaos.proxy import Proxy
from tests.support.eventually import eventually_async

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@dataclass
class Echo:
    """A server that answers with what it gets, and remembers it."""

    received: bytearray = field(default_factory=bytearray)
    #: Connections that have ended.
    closed: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                self.received += data
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.closed += 1
            writer.close()


@dataclass
class Link:
    echo: Echo
    proxy: Proxy
    connect: Connect


@pytest.fixture
async def link(unused_tcp_port: int) -> AsyncIterator[Link]:
    async with AsyncExitStack() as stack:
        echo = Echo()
        server = await stack.enter_async_context(await asyncio.start_server(echo.serve, HOST, 0))
        proxy = Proxy("echo", HOST, server.sockets[0].getsockname()[1])
        await stack.enter_async_context(proxy.serving(HOST, unused_tcp_port))

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(HOST, unused_tcp_port)
            stack.callback(writer.close)
            return reader, writer

        yield Link(echo, proxy, connect)


async def test_everything_passes_both_ways(link: Link) -> None:
    reader, writer = await link.connect()
    sent = bytes(range(256)) * 4096
    writer.write(sent)
    assert await reader.readexactly(len(sent)) == sent


async def test_a_cut_resets_what_is_open_and_refuses_what_comes(link: Link) -> None:
    reader, writer = await link.connect()
    writer.write(b"before")
    await reader.readexactly(6)
    link.proxy.refusing = True
    link.proxy.cut()
    with pytest.raises(ConnectionError):
        await reader.readexactly(1) or _ended()
    refused, _ = await link.connect()
    with pytest.raises(ConnectionError):
        await refused.read(1) or _ended()
    link.proxy.refusing = False
    reader, writer = await link.connect()
    writer.write(b"after")
    assert await reader.readexactly(5) == b"after"


async def test_nothing_passes_a_stalled_link_until_it_flows_again(link: Link) -> None:
    reader, writer = await link.connect()
    writer.write(b"1")
    await reader.readexactly(1)
    link.proxy.stalled = True
    writer.write(b"2")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(1), 0.2)
    assert link.echo.received == b"1"
    link.proxy.stalled = False
    assert await reader.readexactly(1) == b"2"


async def test_what_a_client_has_given_up_never_arrives(link: Link) -> None:
    reader, writer = await link.connect()
    writer.write(b"1")
    await reader.readexactly(1)
    link.proxy.stalled = True
    writer.write(b"late")
    await writer.drain()
    writer.close()
    await _eventually(lambda: link.echo.closed == 1)
    link.proxy.stalled = False
    reader, writer = await link.connect()
    writer.write(b"2")
    await reader.readexactly(1)
    assert link.echo.received == b"12"


async def test_a_delay_acts_in_both_directions(link: Link) -> None:
    reader, writer = await link.connect()
    link.proxy.delay = 0.1
    begun = time.monotonic()
    writer.write(b"1")
    await reader.readexactly(1)
    assert time.monotonic() - begun >= 0.2


async def test_a_server_that_is_away_is_a_reset(unused_tcp_port_factory: Callable[[], int]) -> None:
    nowhere, port = unused_tcp_port_factory(), unused_tcp_port_factory()
    async with Proxy("nowhere", HOST, nowhere).serving(HOST, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        with pytest.raises(ConnectionError):
            await reader.read(1) or _ended()
        writer.close()


async def _eventually(check: Callable[[], bool]) -> None:
    async def look() -> bool:
        return check()

    await eventually_async(look)


def _ended() -> bytes:
    """An orderly end is no reset."""
    raise AssertionError("the connection ended in good order")
