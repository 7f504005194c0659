"""A worker whose call is under way, and what happens to the user's other updates meanwhile."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from controller.core.outcomes import Outcome
from controller.core.sharding import Shard
from controller.reconciler.context import ShardContext
from controller.reconciler.user_worker import UserWorker
from tests.support.builders import make_stream, make_update
from tests.support.eventually import let_run


class HangingDownstream:
    """No connection to it is ever made."""

    def __init__(self) -> None:
        self.begun = 0

    async def call(self, *_: Any) -> Outcome:
        self.begun += 1
        await asyncio.Event().wait()
        raise AssertionError


async def test_that_another_update_ends_does_not_touch_a_call_under_way() -> None:
    """The predecessor was forgotten then: the call was taken back, or not repeated after a closed connection."""
    downstream, lease = HangingDownstream(), SimpleNamespace(held=False)
    process = SimpleNamespace(cluster=None, downstream=downstream)
    context = ShardContext(
        shared=cast(Any, SimpleNamespace(process=process, events=None)),
        shard=Shard(),
        lease=cast(Any, lease),
        stream=make_stream(),
        on_finished=lambda _: None,
    )
    worker = UserWorker(context)
    before, other = make_update(sequence=1), make_update(sequence=3)
    called = make_update(sequence=2, after=before.name)
    worker.queue.push(called)
    worker.queue.push(other)
    worker.finished(before.name)
    lease.held = True
    for _ in range(2):
        worker.wake()
        await let_run()
        assert downstream.begun == 1 and worker.calling
        worker.finished(other.name)
    worker.drop()
