"""A thousand connections that the server resets at once: `python -m tests.support.resets https`; by TLS or without.

Another thread opens files meanwhile: says which of them somebody else has closed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import threading
from collections import Counter

import aiohttp

from controller import eventloop

#: Close with a reset: SO_LINGER on, no seconds.
RESET = struct.pack("ii", 1, 0)


def _serve(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.close()


def _open_files(over: threading.Event, lost: list[int]) -> None:
    while not over.is_set():
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(30)]
        over.wait(0.001)
        for file in files:
            try:
                os.close(file)
            except OSError:
                lost.append(file)


async def _connect(url: str, ends: Counter[str]) -> None:
    async def once() -> None:
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                await answer.read()
        except aiohttp.ClientError:
            ends["failed"] += 1

    for _ in range(100):
        await asyncio.gather(*(once() for _ in range(10)))


def main() -> None:
    """Exits with 1 where a file was closed by somebody else, or a connection did not fail; libuv may abort."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(server,), daemon=True).start()
    over, lost, ends = threading.Event(), list[int](), Counter[str]()
    opening = threading.Thread(target=_open_files, args=(over, lost))
    opening.start()
    try:
        eventloop.run(_connect(f"{sys.argv[1]}://127.0.0.1:{server.getsockname()[1]}/", ends))
    finally:
        over.set()
        opening.join()
    print(f"{ends['failed']} connections failed, {len(lost)} files of others closed")
    sys.exit(0 if ends["failed"] == 1000 and not lost else 1)


if __name__ == "__main__":
    main()
