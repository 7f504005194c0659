"""What is read again of backlogs, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from controller.bridge.backlogs.overflow import Overflow
from controller.bridge.backlogs.rereading import Rereading
from controller.bridge.context import ConsumerContext
from controller.bridge.partitions import Partition
from controller.bridge.pending import Lanes
from controller.bridge.tracker import Tracker
from controller.kafka import FetchResult
from tests.support.bridge import make_consumer_context


class Kafka:
    """Answers nothing, and knows what it was asked for."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[list[int]] = asyncio.Queue()

    async def fetch(self, partition: int, wanted: Sequence[int], room: int) -> FetchResult:
        self.asked.put_nowait(list(wanted))
        await asyncio.Event().wait()
        raise AssertionError

    def close_if_idle(self) -> None:
        pass


def rereading(context: ConsumerContext, kafka: Kafka, overflow: Overflow, *, held_up: bool) -> Rereading:
    nothing = cast(Any, None)
    return Rereading(context, cast(Any, kafka), overflow, Lanes(), nothing, nothing, nothing, lambda: held_up)


async def first_asked(reading: Rereading, kafka: Kafka) -> list[int]:
    running = asyncio.create_task(reading.run())
    try:
        return await asyncio.wait_for(kafka.asked.get(), 5)
    finally:
        running.cancel()


async def test_a_partition_without_a_leader_keeps_no_other_waiting() -> None:
    """A pass over it is three seconds of silence, and there may be a dead broker's worth of them."""
    context = make_consumer_context()
    overflow = Overflow(context.partitions, lambda partition, offset: None)
    for partition in context.partitions.assign([0, 1, 2]):
        partition.answers = partition.number == 2
        overflow.append("ana", partition, 10 + partition.number)
    kafka = Kafka()
    assert await first_asked(rereading(context, kafka, overflow, held_up=False), kafka) == [12]


async def test_the_record_that_holds_a_position_up_is_read_again() -> None:
    """Its user was moved into a backlog that the API server refuses: nothing else would ever move the position."""
    context = make_consumer_context()
    (partition,) = context.partitions.assign([0])
    partition.tracker = Tracker(5)

    def done(partition: Partition, offset: int) -> None:
        assert partition.tracker
        partition.tracker.done(offset)

    overflow = Overflow(context.partitions, done)
    for offset in (5, 6, 7):
        partition.tracker.begin(offset)
        overflow.append("ana", partition, offset)
    kafka = Kafka()
    assert await first_asked(rereading(context, kafka, overflow, held_up=True), kafka) == [5]
    overflow.take("ana", partition, 5)
    assert partition.position == 6, "it is a UserUpdate, written into a backlog or not"
