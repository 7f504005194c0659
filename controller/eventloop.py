"""The event loop of every thread that has one: uvloop's, with one of its bugs worked around."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import uvloop


class Loop(uvloop.Loop):
    """A loop that never closes a file descriptor twice.

    uvloop 0.23 does not detach a socket whose connection breaks off while it is being made, as at a reset in the TLS
    handshake. libuv has closed the descriptor by then, and the socket closes that number again when it is collected. By
    then the number may be a file or a socket of another thread, or the descriptor that another loop waits on; then
    libuv aborts the process ("uv__io_poll: Assertion `errno == EINTR' failed").
    (github.com/MagicStack/uvloop/issues/645 and 738 are of the same kind.)
    """

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Any, *args: Any, sock: socket.socket | None = None, **options: Any
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """As uvloop's. From here on, libuv owns `sock`."""
        try:
            made: Any = await super().create_connection(protocol_factory, *args, sock=sock, **options)
        except BaseException:
            if sock is not None:
                sock.detach()
            raise
        transport, protocol = made
        if sock is not None and transport.is_closing():
            sock.detach()
        return transport, protocol


def run(main: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, on such a loop."""
    uvloop.run(main, loop_factory=Loop)
