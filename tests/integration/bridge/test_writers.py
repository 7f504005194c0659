"""What writes RejectedEvents and UserBacklogs, before a real API server; its partitions are what the test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from controller.api.rejected_event import RejectionReason
from controller.api.update_stream import UpdateStream
from controller.bridge import rejected_events as module
from controller.bridge.backlogs.cache import BacklogCache
from controller.bridge.backlogs.writer import BacklogWriter
from controller.bridge.partitions import Partition
from controller.bridge.rejected_events import RejectedEvents, RejectedRecord
from controller.clients.cluster import Cluster
from controller.core.records import Record, Rejection
from controller.kafka import Topic
from devenv.environment import Environment
from tests.support.admission import PROBES, asked, policy
from tests.support.bridge import make_consumer_context
from tests.support.builders import make_stream
from tests.support.eventually import eventually, eventually_async
from tests.support.kube import Kube

TOPIC = Topic("t", "A" * 22, 1)


@pytest.fixture
def stream(namespace: str) -> UpdateStream:
    return replace(make_stream(), namespace=namespace)


@pytest.fixture(autouse=True)
def account(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(environment.account_kubeconfig("bridge")))


@dataclass(frozen=True)
class Noted:
    """An origin that writes down when it is told."""

    from_backlog: ClassVar[bool] = False
    partition: Partition
    offset: int
    told: list[tuple[Partition, int]]

    def done(self) -> None:
        self.told.append((self.partition, self.offset))


def rejected(
    stream: UpdateStream, partition: Partition, offset: int, done: list[tuple[Partition, int]]
) -> RejectedRecord:
    record = Record(TOPIC.name, TOPIC.id, partition.number, offset, 0, b"ana", b"poison" * 500)
    rejection = Rejection(RejectionReason.NOT_JSON, "no JSON")
    return RejectedRecord.of(stream, record, rejection, Noted(partition, offset, done))


@asynccontextmanager
async def running(rejected_events: RejectedEvents) -> AsyncIterator[None]:
    task = asyncio.create_task(rejected_events.run())
    try:
        yield
    finally:
        task.cancel()


async def test_of_records_that_share_an_object_only_those_of_a_lost_partition_leave(stream: UpdateStream) -> None:
    """The partition came back: what is read of it anew shares an object with what was read of it before."""
    done: list[tuple[Partition, int]] = []

    async def shown() -> bool:
        return len(done) >= 250

    async with Cluster.connect() as cluster:
        context = make_consumer_context(cluster, stream, TOPIC)
        partitions = context.partitions
        (before,) = partitions.assign([0])
        rejected_events = RejectedEvents(context)

        def add(partition: Partition, offset: int) -> None:
            rejected_events.add(rejected(stream, partition, offset, done))

        for offset in range(101):  # each of the first hundred has an object of its own
            add(before, offset)
        partitions.revoke([0])
        (again,) = partitions.assign([0])
        partitions.committed({0: 0}, time.monotonic())
        for offset in range(250):
            add(again, offset)
        async with running(rejected_events):
            await eventually_async(shown, 20)
    assert sorted(done, key=lambda each: each[1]) == [(again, offset) for offset in range(250)]
    assert context.read_ahead.total == 0


async def test_what_is_shown_without_its_record_leaves_no_memory_behind(kube: Kube, stream: UpdateStream) -> None:
    """What counts towards the memory that pauses reading: it would be paused for ever in the end."""
    done: list[tuple[Partition, int]] = []
    async with Cluster.connect() as cluster:
        context = make_consumer_context(cluster, stream, TOPIC)
        partitions = context.partitions
        (partition,) = partitions.assign([0])
        partitions.committed({0: 0}, time.monotonic())
        rejected_events = RejectedEvents(context)
        no_value = "!has(object.spec.value)"
        with policy(kube, stream.namespace, "rejectedevents", no_value, reason="RequestEntityTooLarge"):
            await asyncio.to_thread(_refuses_values, kube, stream.namespace)
            for offset in (5, 6):
                rejected_events.add(rejected(stream, partition, offset, done))
            async with running(rejected_events):

                async def shown() -> bool:
                    return len(done) == 2

                await eventually_async(shown, 20)
    found = kube.list(stream.namespace, "rejectedevents")
    assert [body["spec"]["source"]["offset"] for body in found] == [5, 6]
    assert not any("value" in body["spec"] for body in found)
    assert context.read_ahead.total == 0


async def test_rejected_events_that_may_not_be_deleted_do_not_pile_up(
    kube: Kube, stream: UpdateStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five are to be kept, and ten are too many: whatever comes then is shown by those that are there."""
    monkeypatch.setattr(module, "KEPT", 5)
    monkeypatch.setattr(module, "CROWDED", 10)
    done: list[tuple[Partition, int]] = []
    count = 0
    async with Cluster.connect() as cluster:
        context = make_consumer_context(cluster, stream, TOPIC)
        partitions = context.partitions
        (partition,) = partitions.assign([0])
        partitions.committed({0: 0}, time.monotonic())
        rejected_events = RejectedEvents(context)

        async def shown() -> bool:
            return len(done) == count

        with policy(kube, stream.namespace, "rejectedevents", operations=("DELETE",)):
            await asyncio.to_thread(_refuses_deletes, kube, stream.namespace)
            async with running(rejected_events):
                for offset in range(30):
                    count += 1
                    rejected_events.add(rejected(stream, partition, offset, done))
                    await eventually_async(shown, 20)
    probe = kube.path(stream.namespace, "rejectedevents", "probe")
    eventually(lambda: kube.client.delete(probe).is_success, 20)
    found = [body["spec"] for body in kube.list(stream.namespace, "rejectedevents")]
    assert len(found) <= 11
    assert max(spec["source"]["lastOffset"] for spec in found) == 29


def _refuses_deletes(kube: Kube, namespace: str) -> None:
    """Wait until one that is there may not be deleted."""
    body = {"metadata": {"name": "probe"}, "spec": PROBES["rejectedevents"]["spec"]}
    kube.create(namespace, "rejectedevents", body)
    path = kube.path(namespace, "rejectedevents", "probe") + "?dryRun=All"
    eventually(lambda: kube.client.delete(path).status_code == 422, 20)


def _refuses_values(kube: Kube, namespace: str) -> None:
    eventually(lambda: asked(kube, namespace, "rejectedevents", value="") == 413)


async def test_a_backlog_whose_namespace_is_gone_is_not_asked_for_without_a_break(
    kube: Kube, stream: UpdateStream
) -> None:
    """Both the create and the GET answer 404, however often they are sent."""

    def gone() -> int:
        return kube.requests("userbacklogs")["POST", "404"]

    async with Cluster.connect() as cluster:
        context = make_consumer_context(cluster, replace(stream, namespace="nowhere"), TOPIC)
        partitions = context.partitions
        (partition,) = partitions.assign([0])
        partitions.committed({0: 0}, time.monotonic())
        cache = BacklogCache()
        cache.append("ana", partition, 5)
        writer = BacklogWriter(context, cache)
        before = await asyncio.to_thread(gone)
        task = asyncio.create_task(writer.run())

        async def refused_for_a_while() -> bool:
            oldest = writer.limiter.oldest
            return oldest is not None and time.monotonic() - oldest.since > 1.5

        await eventually_async(refused_for_a_while, 20)
        task.cancel()
        assert 2 <= await asyncio.to_thread(gone) - before <= 20
