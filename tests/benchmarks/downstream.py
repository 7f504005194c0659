"""The downstream of the benchmarks: answers the three steps' contract and is never the bottleneck.

`python -m tests.benchmarks.downstream --port PORT`: a uvloop protocol over httptools, some 0.1 ms of CPU an event. What
it answers is said by `answers`.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import httptools
import uvloop

from tests.benchmarks.answers import Server


class Connection(asyncio.Protocol):
    """One keep-alive connection; a client sends its next request after the answer."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status, body, latency = self._server.answer(self._url, self._body)
        reason = b"OK" if status == 200 else b"Busy"
        head = b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        answer = head % (status, reason, len(body)) + body
        if latency:
            self._loop.call_later(latency, self._transport.write, answer)
        else:
            self._transport.write(answer)


async def serve(port: int) -> None:
    server = Server()
    listening = await asyncio.get_running_loop().create_server(lambda: Connection(server), "127.0.0.1", port)
    async with listening:
        await listening.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
