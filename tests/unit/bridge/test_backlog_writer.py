"""The writer of backlogs, as far as it needs no API server."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from controller.api.offset_queue import OffsetQueue
from controller.bridge.backlogs.overflow import ADDED_SECONDS, Backlog, Overflow, Queue
from controller.bridge.backlogs.writer import BacklogWriter
from controller.bridge.partitions import Lost, Partitions
from controller.errors import Forbidden
from controller.kafka import Topic
from tests.support.bridge import make_consumer_context
from tests.support.eventually import eventually_async


def test_entries_of_a_partition_that_is_not_adopted_yet_are_kept() -> None:
    """It was another replica's a moment ago: what waits in it is listed there and nowhere else."""
    context = make_consumer_context(topic=Topic("events", "id", 2))
    partitions = context.partitions
    old, new = partitions.assign([0, 1])
    old.adopted = True
    overflow = Overflow(partitions, lambda partition, offset: None)
    entries = [{"topicId": "id", "partition": number, "offsets": OffsetQueue([7]).encode()} for number in (0, 1)]
    body = {"metadata": {}, "spec": {"partitions": entries}}
    backlog = overflow.adopt("ana", body, [Queue(old, OffsetQueue([7]))])
    writer = BacklogWriter(context, overflow, cast(Any, None))
    assert [entry["partition"] for entry in writer._others(backlog)] == [1]
    new.adopted = True
    assert writer._others(backlog) == []


def one_backlog() -> tuple[Partitions, Overflow, Backlog, BacklogWriter]:
    """A record of ana in partition 0 waits to be written into her backlog. Writes fail: there is no API server."""
    context = make_consumer_context()
    partitions = context.partitions
    (partition,) = partitions.assign([0])
    overflow = Overflow(partitions, lambda partition, offset: None)
    overflow.append("ana", partition, 5)
    (backlog,) = overflow
    writer = BacklogWriter(context, overflow, cast(Any, None))
    return partitions, overflow, backlog, writer


async def test_a_write_that_waits_ends_when_its_partition_is_lost() -> None:
    """It hears of it before anybody has given the backlog up, and must let them get to that."""
    partitions, overflow, backlog, writer = one_backlog()
    running = asyncio.create_task(writer.run())

    async def writes() -> bool:
        return backlog.saving

    await eventually_async(writes, within=ADDED_SECONDS + 5)
    # It is not under way yet: whoever lets partitions go need not wait for it.
    await asyncio.wait_for(writer.idle(), 5)
    assert backlog.saving
    gone = partitions.revoke([0])

    async def ended() -> bool:
        return not backlog.saving

    await eventually_async(ended, within=5)
    assert overflow.current(backlog)
    overflow.forget(gone)
    assert len(overflow) == 0
    running.cancel()


async def test_what_has_to_be_shown_first_is_seen_behind_a_wait() -> None:
    """Records of a former topic come to light with a partition that is taken up while a write waits for its turn."""
    context = make_consumer_context(topic=Topic("events", "id", 2))
    partitions = context.partitions
    old, new = partitions.assign([0, 1])
    old.adopted = True
    overflow = Overflow(partitions, lambda partition, offset: None)
    overflow.append("ana", old, 5)
    (backlog,) = overflow
    # It has no API server: a write that begins fails.
    writer = BacklogWriter(context, overflow, cast(Any, None))
    waiting = asyncio.create_task(writer._attempt(backlog))
    await asyncio.wait({waiting}, timeout=0.05)
    new.adopted = True
    backlog.expiring.update([new])
    partitions.committed({0: 5}, time.monotonic())
    with pytest.raises(Lost):
        await waiting


async def test_all_partitions_are_held_at_the_moment_of_a_write() -> None:
    """While the second one was waited for, the time of the first one has ended."""
    context = make_consumer_context()
    partitions = context.partitions
    first, second = partitions.assign([0, 1])
    overflow = Overflow(partitions, lambda partition, offset: None)
    overflow.append("ana", first, 5)
    overflow.append("ana", second, 5)
    (backlog,) = overflow
    writer = BacklogWriter(context, overflow, cast(Any, None))
    partitions.committed({0: 5}, time.monotonic())
    waiting = asyncio.create_task(writer._attempt(backlog))
    await asyncio.wait({waiting}, timeout=0.05)
    first.held_until = 0.0
    partitions.committed({1: 5}, time.monotonic())
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    waiting.cancel()


async def test_a_refused_write_whose_partition_is_lost_leaves_nothing_failing() -> None:
    """Else the brake would count it as an outage for ever, and no user would be moved into a backlog."""
    partitions, overflow, backlog, writer = one_backlog()
    backlog.again = time.monotonic() + writer.brake.failed(backlog, Forbidden("no more"), "the UserBacklog")
    assert writer.brake.failing_for() > 0
    overflow.forget(partitions.revoke([0]))
    running = asyncio.create_task(writer.run())

    async def nothing_fails() -> bool:
        return writer.brake.failing_for() == 0

    await eventually_async(nothing_fails, within=5)
    running.cancel()
