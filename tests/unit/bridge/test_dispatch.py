"""The dispatcher by itself: whatever the API server answers, and whenever a partition is revoked, no record is lost."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from controller.api.update_stream import Limits
from controller.bridge import dispatch, write_limiter
from controller.bridge.context import ConsumerContext
from controller.bridge.creator import AlreadyFinished, Answer, NameTaken, Present
from controller.bridge.dispatch import Dispatcher
from controller.bridge.partitions import OffsetTracker, Partition
from controller.bridge.pending import PartitionOffset, PendingRecord
from controller.bridge.rejected_events import RejectedEvents
from controller.core.records import UpdateEvent, read_record
from controller.errors import Forbidden
from tests.support.bridge import make_consumer_context
from tests.support.builders import make_stream
from tests.support.eventually import eventually_async
from tests.support.records import make_record

RECORDS = 100
USERS = ("ana", "bo", "cy", "dan", "eve")


async def others_run(turns: int) -> None:
    """So many turns of the loop."""
    for _ in range(turns):
        passed = asyncio.Event()
        asyncio.get_running_loop().call_soon(passed.set)
        await passed.wait()


class ApiServer:
    """Answers by chance, and some time later."""

    def __init__(self, random: Random) -> None:
        self._random = random
        #: Offsets that were answered for good, by partition and user, in the order of the answers.
        self.dealt_with: dict[tuple[int, str], list[int]] = {}
        self.created = 0

    async def create(self, _: Any, manifest: dict[str, Any]) -> Answer:
        await others_run(self._random.randrange(10))
        chance = self._random.random()
        if chance < 0.2:
            raise Forbidden("exceeded quota", status=403)
        source = manifest["spec"]["source"]
        self.dealt_with.setdefault((source["partition"], manifest["spec"]["user"]), []).append(source["offset"])
        if chance < 0.3:
            return NameTaken()
        if chance < 0.4:
            return AlreadyFinished()
        self.created += 1
        return Present(self.created, new=True)

    def offsets(self, partition: Partition) -> list[int]:
        """Sorted."""
        found = self.dealt_with.items()
        return sorted(offset for (number, _), offsets in found if number == partition.number for offset in offsets)


def begin(partition: Partition) -> None:
    """All of its records are in hand, and it is certainly this replica's."""
    partition.tracker, partition.held_until = OffsetTracker(0), float("inf")
    for offset in range(RECORDS):
        partition.tracker.begin(offset)


def pending(context: ConsumerContext, partition: Partition, offset: int, user: str) -> PendingRecord:
    record = make_record(key=user.encode(), partition=partition.number, offset=offset)
    event = read_record(record)
    assert isinstance(event, UpdateEvent)
    return PendingRecord(record, event, PartitionOffset(partition, offset), context.read_ahead, time.monotonic())


@pytest.mark.parametrize("seed", range(10))
async def test_every_record_is_dealt_with_once_and_gives_back_what_it_has_taken(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Creates are acknowledged or refused, names are taken, and a partition is revoked in the middle."""
    random = Random(seed)
    server = ApiServer(random)
    monkeypatch.setattr(dispatch, "create", server.create)
    monkeypatch.setattr(write_limiter, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(write_limiter, "REFUSED_DELAY", 0.001)
    monkeypatch.setattr(write_limiter, "TRIES_A_SECOND", 10_000)
    context = make_consumer_context(stream=replace(make_stream(), limits=Limits(1000, 1000)))
    rejected_events = RejectedEvents(context)
    dispatcher = Dispatcher(context, rejected_events)
    kept, lost = context.partitions.assign([0, 1])
    begin(kept)
    begin(lost)
    lost_at_most = 0
    for offset in range(RECORDS):
        for partition in (kept, lost):
            if not partition.revoked:
                dispatcher.offer(pending(context, partition, offset, random.choice(USERS)))
        dispatcher.pump()
        await others_run(2)
        if offset == RECORDS // 2:
            dispatcher.forget(context.partitions.revoke([lost.number]))
            lost_at_most = len(server.offsets(lost)) + lost.in_flight

    async def all_dealt_with() -> bool:
        return len(server.offsets(kept)) == RECORDS and not (kept.in_flight or lost.in_flight)

    await eventually_async(all_dealt_with, within=20)
    assert server.offsets(kept) == list(range(RECORDS)), "each is dealt with once"
    assert all(offsets == sorted(offsets) for offsets in server.dealt_with.values()), "in the order of each user"
    assert len(server.offsets(lost)) <= lost_at_most, "what did not wait for an answer is the next owner's"
    assert len(dispatcher.pending) == 0
    assert dispatcher.working_set.taken == dispatcher.working_set.unseen == server.created, "no slot is kept"
    rejected = rejected_events._queue
    assert (context.read_ahead.total, context.read_ahead.reread) == (sum(each.cost for each in rejected), 0)
    assert dispatcher.limiter.refused == 0
    names_taken = [each for each in rejected if each.partition is kept]
    assert kept.position == min(each.offset for each in names_taken), "it waits for the RejectedEvent"
    for each in names_taken:
        each.origin.done()
    assert kept.position == RECORDS
