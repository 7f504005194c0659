"""A client and a sample downstream with real sockets between them, in one process."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from controller.api.update_stream import StepSpec
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Status
from controller.clients.downstream import Downstream
from controller.core.outcomes import NotCalled, Outcome
from controller.core.steps import PROFILE, Step
from devenv.downstream import SampleDownstream, serving
from tests.support.builders import make_step_record, make_update
from tests.support.eventually import eventually_async


def made(
    user: str = "userid1", sequence: int = 42, results: dict[str, str] | None = None, traceparent: str | None = None
) -> UserUpdate:
    """An update of a record whose earlier steps gave `results`."""
    records = (make_step_record("earlier", attempts=1, **results),) if results else ()
    update = make_update(user=user, sequence=sequence, status=Status(steps=records))
    assert update.spec.source is not None
    source = replace(update.spec.source, traceparent=traceparent)
    return replace(update, spec=replace(update.spec, source=source, resources="some"))


class Wire:
    """A client and an in-process sample downstream between which real sockets lie."""

    def __init__(self, client: Downstream, sample: SampleDownstream, url: str) -> None:
        self.client, self.sample, self.url = client, sample, url

    async def call(
        self, step: Step = PROFILE, update: UserUpdate | None = None, key: str = "k", timeout: float = 5.0
    ) -> Outcome | NotCalled:
        endpoint = StepSpec(f"{self.url}/{step.name}", timeout_seconds=timeout)
        update = update or made(results={"userId": "u-0", "roleId": "r-0"})
        return await self.client.call(step, endpoint, update, key)

    async def rules(self, *rules: dict[str, Any]) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.put(f"{self.url}/control/rules", json=list(rules)) as response:
                assert response.status == 200, await response.text()

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        lines = b"".join(self.sample.log.journal.read()).splitlines()
        return [record for record in map(orjson.loads, lines) if kind in (None, record["kind"])]

    async def until(self, holds: Callable[[], bool], within: float = 5.0) -> None:
        """Waits for something that the sample knows."""

        async def look() -> bool:
            return holds()

        await eventually_async(look, within, every=0.005)


@asynccontextmanager
async def wired(data: Path) -> AsyncIterator[Wire]:
    """A Wire whose sample keeps its journal in `data`."""
    sample = SampleDownstream(data)
    async with serving(sample) as url, Downstream() as client:
        yield Wire(client, sample, url)


@contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[str]:
    """Takes a connection, tries the handshake, reads nothing, closes: in threads, as servers do that send the alert."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            try:
                context.wrap_socket(connection, server_side=True).recv(1)
            except OSError:
                pass
            finally:
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)
