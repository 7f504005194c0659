"""Which writes wait: delays are written a few at a time, and no other write waits for them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Status
from controller.core.sharding import shards
from controller.reconciler.checkpoints import write_status
from controller.reconciler.context import DELAY_WRITES, ShardContext
from tests.support.builders import BUSY_UNTIL_5, RUNNING, make_stream, make_update


class SlowServer:
    """Answers writes when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answering = asyncio.Event()
        self._one_more = asyncio.Condition()

    async def patch_status(self, _resource: Any, _namespace: str, name: str, *_: Any) -> dict[str, Any]:
        async with self._one_more:
            self.asked.append(name)
            self._one_more.notify_all()
        await self.answering.wait()
        return {"metadata": {"resourceVersion": "2"}}

    async def until(self, count: int) -> None:
        async with self._one_more:
            await self._one_more.wait_for(lambda: len(self.asked) >= count)


class HeldLease:
    tenure = 1

    async def wait_held(self) -> None:
        pass


async def test_a_hundred_delays_keep_no_progress_waiting() -> None:
    server = SlowServer()
    context = ShardContext(
        shared=cast(Any, SimpleNamespace(process=SimpleNamespace(cluster=server), events=None)),
        shard=next(iter(shards(1))),
        lease=cast(Any, HeldLease()),
        stream=make_stream(),
        on_finished=lambda _: None,
    )

    def write(name: str, status: Status) -> asyncio.Task[UserUpdate]:
        return asyncio.create_task(write_status(context, make_update(name=name), status))

    delays = [write(f"busy-{number}", BUSY_UNTIL_5) for number in range(100)]
    await server.until(DELAY_WRITES)
    progress = write("going-on", RUNNING)
    await server.until(DELAY_WRITES + 1)
    assert server.asked == [*(f"busy-{number}" for number in range(DELAY_WRITES)), "going-on"]
    await server.until(101)  # a server in trouble, or a pool in use: they do not wait for ever
    server.answering.set()
    await asyncio.gather(*delays, progress)
    assert len(server.asked) == 101
