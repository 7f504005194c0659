"""A nameserver that the controllers ask for the downstream, and that can be told to be slow, silent or broken.

RFC 1035, as far as one name needs it: every name is at the one address, by IPv4 alone.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

#: What the downstream is called. `test` is nobody's top-level domain (RFC 6761).
DOWNSTREAM = "downstream.test"
#: Bytes of a message before its question: id, flags, and four counts.
_HEADER = struct.Struct("!HHHHHH")
#: Flags of a response: recursion wanted and available, and the code: none, or that the server failed.
_ANSWERED, _SERVER_FAILURE = 0x8180, 0x8182
#: A record: a pointer to the question's name, type A, class IN, to be kept for no second, four bytes long.
_RECORD = struct.Struct("!HHHIH")
_POINTER, _A, _IN, _NO_SECONDS = 0xC00C, 1, 1, 0
#: Servers that a resolver asks in turn for an answer: each adds the delay of a link.
_ASKED_IN_TURN = 10


class Nameserver(asyncio.DatagramProtocol):
    """A link with the switches of `Proxy`: `refusing` says that it failed, `stalled` says nothing, `delay` is late."""

    def __init__(self, name: str, address: str) -> None:
        """`address`: IPv4, of every name."""
        self.name = name
        self.delay = 0.0
        self.refusing = False
        self.stalled = False
        #: Questions that came.
        self.connections = 0
        self._address = socket.inet_aton(address)
        self._transport: asyncio.DatagramTransport | None = None

    def cut(self) -> None:
        """Nothing is open between two questions."""

    @asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[None]:
        """Answers until left. Raises OSError where the port is taken."""
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, (host, port))
        self._transport = transport
        try:
            yield
        finally:
            transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """A question: answered, if it is to be."""
        self.connections += 1
        if self.stalled or self._transport is None:
            return
        answer = _answer(data, None if self.refusing else self._address)
        asyncio.get_running_loop().call_later(self.delay * _ASKED_IN_TURN, self._transport.sendto, answer, addr)


def _answer(question: bytes, address: bytes | None) -> bytes:
    """Of a message with one question; no address: the server failed."""
    number = _HEADER.unpack_from(question)[0]
    name_end = question.index(b"\0", _HEADER.size) + 1
    asked = question[_HEADER.size : name_end + 4]
    if address is None:
        return _HEADER.pack(number, _SERVER_FAILURE, 1, 0, 0, 0) + asked
    if struct.unpack_from("!H", question, name_end)[0] != _A:
        return _HEADER.pack(number, _ANSWERED, 1, 0, 0, 0) + asked
    record = _RECORD.pack(_POINTER, _A, _IN, _NO_SECONDS, len(address)) + address
    return _HEADER.pack(number, _ANSWERED, 1, 1, 0, 0) + asked + record
