"""What is read again of backlogs, and what is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from controller.api.offset_queue import OffsetQueue
from controller.bridge.backlogs import Backlogs
from controller.bridge.backlogs.cache import BacklogOffset, PartitionQueue
from controller.bridge.context import ConsumerContext
from controller.bridge.dispatch import Dispatcher
from controller.bridge.partitions import OffsetTracker
from controller.bridge.pending import PartitionOffset, PendingRecord
from controller.bridge.rejected_events import RejectedEvents
from controller.core.records import UpdateEvent, read_record
from controller.kafka import FetchResult
from tests.support.bridge import make_consumer_context
from tests.support.records import make_record


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


def make_backlogs(context: ConsumerContext, kafka: Kafka) -> Backlogs:
    rejected_events = RejectedEvents(context)
    return Backlogs(context, cast(Any, kafka), Dispatcher(context, rejected_events), rejected_events)


async def first_asked(backlogs: Backlogs, kafka: Kafka) -> list[int]:
    running = [asyncio.create_task(work) for work in backlogs.background()]
    try:
        return await asyncio.wait_for(kafka.asked.get(), 60)
    finally:
        for work in running:
            work.cancel()


async def test_a_partition_without_a_leader_keeps_no_other_waiting() -> None:
    """A pass over it is three seconds of silence, and there may be a dead broker's worth of them."""
    context, kafka = make_consumer_context(), Kafka()
    backlogs = make_backlogs(context, kafka)
    for partition in context.partitions.assign([0, 1, 2]):
        partition.answers = partition.number == 2
        backlogs.append("ana", partition, 10 + partition.number)
    assert await first_asked(backlogs, kafka) == [12]


async def test_the_record_that_holds_a_position_up_is_read_again() -> None:
    """Its user was moved into a backlog that the API server refuses: nothing else would ever move the position."""
    context, kafka = make_consumer_context(), Kafka()
    backlogs = make_backlogs(context, kafka)
    (partition,) = context.partitions.assign([0])
    partition.tracker = OffsetTracker(5)
    for offset in (5, 6, 7):
        partition.tracker.begin(offset)
        backlogs.append("ana", partition, offset)
    context.position_held = True
    assert await first_asked(backlogs, kafka) == [5]
    BacklogOffset(backlogs._cache, "ana", partition, 5).done()
    assert partition.position == 6, "it is a UserUpdate, written into a backlog or not"


async def test_records_that_are_moved_into_a_backlog_give_their_memory_back_and_others_keep_theirs() -> None:
    """The bridge has restarted: some of the records that it reads again are listed, and one lies before the backlog."""
    context, kafka = make_consumer_context(), Kafka()
    context.bridge.backlogs = context.bridge.rejected = cast(Any, SimpleNamespace(count=lambda stream: 1))
    rejected_events = RejectedEvents(context)
    dispatcher = Dispatcher(context, rejected_events)
    backlogs = Backlogs(context, cast(Any, kafka), dispatcher, rejected_events)
    (partition,) = context.partitions.assign([0])
    partition.tracker = OffsetTracker(40)
    for offset in (40, 55, 70):
        partition.tracker.begin(offset)
        record = make_record(key=b"ana", offset=offset)
        event = read_record(record)
        assert isinstance(event, UpdateEvent)
        dispatcher.offer(PendingRecord(record, event, PartitionOffset(partition, offset), context.read_ahead, 0.0))
    backlogs._cache.load("ana", {}, [PartitionQueue(partition, OffsetQueue([50, 55]))])
    backlogs.make_room(1, time.monotonic())
    ((_, (left,)),) = dispatcher.pending
    assert (left.offset, context.read_ahead.total) == (40, left.cost)
    (backlog,) = backlogs._cache
    assert list(backlog.queues[0].offsets) == [50, 55, 70]
    assert backlog.unwritten == [(partition, 70)]
    assert dispatcher.working_set.grant() == "ana", "the one that is left still wants its slot"
    left.done()
    assert partition.position == 70, "until it is written that the backlog lists it"
