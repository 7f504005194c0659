"""The writer of backlogs, as far as it needs no API server."""

from __future__ import annotations

import asyncio
import time

import pytest

from controller.api.offset_queue import OffsetQueue
from controller.bridge.backlogs.cache import APPENDED_SECONDS, Backlog, BacklogCache, PartitionQueue
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
    old.backlogs_loaded = True
    cache = BacklogCache()
    entries = [{"topicId": "id", "partition": number, "offsets": OffsetQueue([7]).encode()} for number in (0, 1)]
    body = {"metadata": {}, "spec": {"partitions": entries}}
    backlog = cache.load("ana", body, [PartitionQueue(old, OffsetQueue([7]))])
    writer = BacklogWriter(context, cache)
    assert [entry["partition"] for entry in writer._others(backlog)] == [1]
    new.backlogs_loaded = True
    assert writer._others(backlog) == []


def one_backlog() -> tuple[Partitions, BacklogCache, Backlog, BacklogWriter]:
    """A record of ana in partition 0 waits to be written into her backlog. Writes fail: there is no API server."""
    context = make_consumer_context()
    partitions = context.partitions
    (partition,) = partitions.assign([0])
    cache = BacklogCache()
    cache.append("ana", partition, 5)
    (backlog,) = cache
    writer = BacklogWriter(context, cache)
    return partitions, cache, backlog, writer


async def test_a_write_that_waits_ends_when_its_partition_is_lost() -> None:
    """It hears of it before anybody has given the backlog up, and must let them get to that."""
    partitions, cache, backlog, writer = one_backlog()
    running = asyncio.create_task(writer.run())

    async def writes() -> bool:
        return backlog.writing

    await eventually_async(writes, within=APPENDED_SECONDS + 5)
    # It is not under way yet: whoever lets partitions go need not wait for it.
    await asyncio.wait_for(writer.writes_ended(), 60)
    assert backlog.writing
    gone = partitions.revoke([0])

    async def ended() -> bool:
        return not backlog.writing

    await eventually_async(ended, within=5)
    assert cache.has(backlog)
    cache.revoke(gone)
    assert len(cache) == 0
    running.cancel()


async def test_what_has_to_be_shown_first_is_seen_behind_a_wait() -> None:
    """Records of a former topic come to light with a partition that is taken up while a write waits for its turn."""
    context = make_consumer_context(topic=Topic("events", "id", 2))
    partitions = context.partitions
    old, new = partitions.assign([0, 1])
    old.backlogs_loaded = True
    cache = BacklogCache()
    cache.append("ana", old, 5)
    (backlog,) = cache
    # It has no API server: a write that begins fails.
    writer = BacklogWriter(context, cache)
    waiting = asyncio.create_task(writer._attempt(backlog))
    await asyncio.wait({waiting}, timeout=0.05)
    new.backlogs_loaded = True
    backlog.expired.update([new])
    partitions.committed({0: 5}, time.monotonic())
    with pytest.raises(Lost):
        await waiting


async def test_all_partitions_are_held_at_the_moment_of_a_write() -> None:
    """While the second one was waited for, the time of the first one has ended."""
    context = make_consumer_context()
    partitions = context.partitions
    first, second = partitions.assign([0, 1])
    cache = BacklogCache()
    cache.append("ana", first, 5)
    cache.append("ana", second, 5)
    (backlog,) = cache
    writer = BacklogWriter(context, cache)
    partitions.committed({0: 5}, time.monotonic())
    waiting = asyncio.create_task(writer._attempt(backlog))
    await asyncio.wait({waiting}, timeout=0.05)
    first.held_until = 0.0
    partitions.committed({1: 5}, time.monotonic())
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    waiting.cancel()


async def test_a_refused_write_whose_partition_is_lost_leaves_nothing_failing() -> None:
    """Else the limiter would count it as an outage for ever, and no user would be moved into a backlog."""
    partitions, cache, backlog, writer = one_backlog()
    backlog.retry_at = time.monotonic() + writer.limiter.failed(backlog, Forbidden("no more"), "the UserBacklog")
    assert writer.limiter.failing_for() > 0
    cache.revoke(partitions.revoke([0]))
    running = asyncio.create_task(writer.run())

    async def nothing_fails() -> bool:
        return writer.limiter.failing_for() == 0

    await eventually_async(nothing_fails, within=5)
    running.cancel()
