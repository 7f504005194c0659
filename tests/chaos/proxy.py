"""A TCP proxy between two parts that can be told to cut, stall or delay what passes.

When a client closes, what it had sent and was not passed on yet is dropped: a request never reaches a server after its
sender has given it up, as it would not where both run on one machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

_CHUNK = 1 << 16
#: Chunks of one direction that wait while nothing passes.
_MOST_PENDING = 64
#: Close with a reset instead of an orderly end: SO_LINGER on, no seconds.
_RESET = struct.pack("ii", 1, 0)

#: When it is due (monotonic), and the bytes; no bytes: the end.
_Pending: TypeAlias = asyncio.Queue[tuple[float, bytes]]


class Proxy:
    """One link. `delay` in seconds acts on everything that passes; `stalled` lets nothing pass."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name = name
        self.delay = 0.0
        self.refusing = False
        self.connections = 0
        self._address = (host, port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._open: set[asyncio.Task[None]] = set()

    @property
    def stalled(self) -> bool:
        """Whether nothing passes."""
        return not self._flowing.is_set()

    @stalled.setter
    def stalled(self, stalled: bool) -> None:
        (self._flowing.clear if stalled else self._flowing.set)()

    def cut(self) -> None:
        """Reset all connections that are open now."""
        for task in list(self._open):
            task.cancel()

    @asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[None]:
        """Listens until left. Raises OSError where the port is taken."""
        server = await asyncio.start_server(self._accept, host, port, limit=_CHUNK)
        try:
            yield
        finally:
            server.close()
            open_ones = list(self._open)
            self.cut()
            if open_ones:
                await asyncio.wait(open_ones)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            if self.refusing:
                return
            await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # cut, or the server is away: the client sees a reset
        finally:
            self._open.discard(task)
            _reset(writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._address, limit=_CHUNK)
        up: _Pending = asyncio.Queue(_MOST_PENDING)
        down: _Pending = asyncio.Queue(_MOST_PENDING)
        sending = asyncio.create_task(self._read(reader, up))
        tasks = [
            sending,
            *(asyncio.create_task(self._write(*pair)) for pair in ((up, upstream_writer), (down, writer))),
        ]
        answered = tasks[-1]
        tasks.append(asyncio.create_task(self._read(upstream_reader, down, mark_end=True)))
        try:
            await asyncio.wait((sending, answered), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                with contextlib.suppress(OSError):
                    writer.close()
                    await writer.wait_closed()
        finally:
            for task in tasks:
                task.cancel()
            _reset(upstream_writer)

    async def _read(self, reader: asyncio.StreamReader, pending: _Pending, *, mark_end: bool = False) -> None:
        """Goes on while nothing passes: else nobody would see that the other end has closed."""
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await pending.put((time.monotonic() + self.delay, data))
        if mark_end:
            await pending.put((0.0, b""))

    async def _write(self, pending: _Pending, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await pending.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await self._flowing.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once, whatever is still to be sent."""
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
