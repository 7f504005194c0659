"""The writer of backlogs, as far as it needs no API server."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from controller.bridge.backlogwriting import BacklogWriter
from controller.bridge.overflow import ADDED_SECONDS, Overflow
from controller.bridge.partitions import Partitions
from tests.builders import make_stream
from tests.eventually import eventually_async


async def test_a_write_that_waits_ends_when_its_partition_is_lost() -> None:
    """It hears of it before anybody has given the backlog up, and must let them get to that."""
    partitions = Partitions()
    (partition,) = partitions.assign([0])
    overflow = Overflow(partitions, lambda partition, offset: None)
    overflow.append("ana", partition, 5)
    (backlog,) = overflow
    writer = BacklogWriter(cast(Any, None), make_stream(), cast(Any, None), overflow, partitions)
    running = asyncio.create_task(writer.run())

    async def writes() -> bool:
        return backlog.saving

    await eventually_async(writes, within=ADDED_SECONDS + 5)
    partitions.revoke([0])
    await asyncio.wait_for(writer.idle(), 5)
    assert overflow.current(backlog) and not backlog.saving
    overflow.forget([partition])
    assert len(overflow) == 0
    running.cancel()
