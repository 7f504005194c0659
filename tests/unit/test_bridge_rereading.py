"""What is read again of backlogs while too much is made above a position."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from controller.bridge.lanes import Lanes
from controller.bridge.overflow import Overflow
from controller.bridge.partitions import Partition, Partitions
from controller.bridge.rereading import Rereading
from controller.bridge.tracker import Tracker
from controller.kafka import Reread


class Kafka:
    """Answers nothing, and knows what it was asked for."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[list[int]] = asyncio.Queue()

    async def read(self, partition: int, wanted: Sequence[int], room: int) -> Reread:
        self.asked.put_nowait(list(wanted))
        await asyncio.Event().wait()
        raise AssertionError

    def rest(self) -> None:
        pass


async def test_the_record_that_holds_a_position_up_is_read_again() -> None:
    """Its user was moved into a backlog that the API server refuses: nothing else would ever move the position."""
    partitions = Partitions()
    (partition,) = partitions.assign([0])
    partition.tracker = Tracker(5)

    def done(partition: Partition, offset: int) -> None:
        assert partition.tracker
        partition.tracker.done(offset)

    overflow = Overflow(partitions, done)
    for offset in (5, 6, 7):
        partition.tracker.begin(offset)
        overflow.append("ana", partition, offset)
    kafka = Kafka()
    nothing = cast(Any, None)
    rereading = Rereading(
        cast(Any, kafka), overflow, partitions, Lanes(), nothing, nothing, nothing, lambda: True, lambda: 1.0
    )
    running = asyncio.create_task(rereading.run())
    try:
        assert await asyncio.wait_for(kafka.asked.get(), 5) == [5]
    finally:
        running.cancel()
    overflow.take("ana", partition, 5)
    assert partition.position == 6, "it is a UserUpdate, written into a backlog or not"
