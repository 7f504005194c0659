"""Several bridges in one group: partitions move between them, frozen members stay out, slots are kept together.

How long partitions stand still when one is killed or restarted is printed: `pytest -rP` shows it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import confluent_kafka as ck
import pytest

from devenv import broker
from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.background import repeating
from tests.support.bridge_stream import BridgeStream, check_links, good
from tests.support.costs import backlog_writes
from tests.support.eventually import Stopwatch, eventually
from tests.support.kube import Kube
from tests.support.replicas import Replica

PARTITIONS = 4


@pytest.fixture
def ingested(kube: Kube, environment: Environment, namespace: str) -> Iterator[BridgeStream]:
    """A topic of four partitions."""
    topic = f"test-{secrets.token_hex(4)}"
    broker.create_topic(environment.bootstrap_servers, topic, PARTITIONS)
    yield BridgeStream(kube, environment.bootstrap_servers, namespace, topic)
    broker.delete_topic(environment.bootstrap_servers, topic)


def produce_everywhere(ingested: BridgeStream, users: int, each: int) -> None:
    """Each user has one partition, as keys have."""
    for partition in range(PARTITIONS):
        ingested.produce(good(f"p{partition}-u{user}" for _ in range(each) for user in range(users)), partition)


def assigned(replica: Replica) -> bool:
    return "Partitions assigned" in replica.tail()


def everything(count: int) -> list[tuple[int, int]]:
    return [(partition, offset) for partition in range(PARTITIONS) for offset in range(count)]


def positioned(ingested: BridgeStream, count: int, within: float = 60) -> None:
    for partition in range(PARTITIONS):
        ingested.positioned(count, within, partition)


def test_a_rebalance_in_the_middle_of_creates(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    first = start_bridge()
    ingested.apply(limits={"maxObjects": 10_000, "maxPerUser": 100})
    produce_everywhere(ingested, 25, 10)
    eventually(lambda: ingested.count() >= 50, 30)
    start_bridge()
    eventually(lambda: ingested.count() >= 500, 60)
    first.stop()
    positioned(ingested, 250)
    ingested.has_made(everything(250))
    check_links(ingested.updates())


@contextmanager
def coming(ingested: BridgeStream, users: int, every: float) -> Iterator[list[int]]:
    """A record of so many users of each partition every so many seconds; how many have come so far, by partition."""
    sent = [0] * PARTITIONS

    def produce() -> None:
        for partition in range(PARTITIONS):
            ingested.produce(good(f"p{partition}-u{user}" for user in range(users)), partition)
            sent[partition] += users

    with repeating(produce, every):
        yield sent


def passed(ingested: BridgeStream, positions: Sequence[int], within: float) -> float:
    """Wait until each partition's position is beyond that; how many seconds it took."""
    watch = Stopwatch()
    for partition, position in enumerate(positions):
        eventually(partial(_beyond, ingested, partition, position), within)
    return watch.seconds


def _beyond(ingested: BridgeStream, partition: int, position: int) -> bool:
    entry = ingested.entry(partition)
    assert entry.get("position", 0) > position, entry
    return True


def test_bridges_restarted_and_killed_while_records_come(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    replicas = [start_bridge(), start_bridge()]
    ingested.apply(limits={"maxObjects": 10_000, "maxPerUser": 1000})
    for replica in replicas:
        eventually(partial(assigned, replica), 20)
    with coming(ingested, users=3, every=0.3) as sent:
        passed(ingested, [0] * PARTITIONS, 30)
        for replica in replicas:
            replica.stop()
            stopped = list(sent)
            replica.start()
            print(f"{replica.name} restarted: all partitions went on after {passed(ingested, stopped, 60):.1f} s")
        replicas[0].kill()
        took = passed(ingested, list(sent), 60)
        print(f"{replicas[0].name} killed: all partitions went on after {took:.1f} s")
        replicas[0].start()
        passed(ingested, list(sent), 60)
    for partition, count in enumerate(sent):
        ingested.positioned(count, 60, partition)
    ingested.has_made([(partition, offset) for partition, count in enumerate(sent) for offset in range(count)])
    check_links(ingested.updates())


def test_a_frozen_bridge_stays_out_when_it_thaws(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    first = start_bridge()
    ingested.apply(limits={"maxObjects": 10_000, "maxPerUser": 100})
    produce_everywhere(ingested, 25, 10)
    eventually(lambda: ingested.count() >= 50, 30)
    first.freeze()
    start_bridge()
    positioned(ingested, 250, 90)
    # All of them finished and collected: what the frozen one had in hand must not come back.
    for update in ingested.updates():
        ingested.kube.delete(ingested.namespace, "userupdates", update["metadata"]["name"])
    first.thaw()
    eventually(lambda: "Partitions revoked" in first.tail(), 60)
    produce_everywhere(ingested, 25, 1)
    positioned(ingested, 275)
    # A create may have been on its way when it froze: one for each that was in flight, and no more.
    back = [offset for offset in ingested.offsets() if offset[1] < 250]
    assert len(back) <= 32, back
    assert [offset for offset in ingested.offsets() if offset[1] >= 250] == [
        (partition, offset) for partition in range(PARTITIONS) for offset in range(250, 275)
    ]


def test_a_stream_made_anew_begins_at_all_commits(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    """The first entry that a replica writes must not make the others forget the commits of their partitions."""
    for partition in range(PARTITIONS):
        ingested.produce(good(["old", "old", "new"]), partition)
    consumer = ck.Consumer({"bootstrap.servers": ingested.bootstrap, "group.id": ingested.topic})
    where = [ck.TopicPartition(ingested.topic, partition, 2) for partition in range(PARTITIONS)]
    consumer.commit(offsets=where, asynchronous=False)
    consumer.close()
    start_bridge(), start_bridge(), start_bridge()
    ingested.apply()
    positioned(ingested, 3)
    ingested.has_made([(partition, 2) for partition in range(PARTITIONS)])


def test_replicas_keep_the_limit_together(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge(), start_bridge()
    ingested.apply(limits={"maxObjects": 100, "maxPerUser": 5})
    produce_everywhere(ingested, 100, 1)
    ingested.reason("MaxObjectsReached", 30)
    eventually(lambda: ingested.count() >= 100, 30)
    # 5 % more for the second replica.
    assert len(ingested.updates()) <= 105


def test_a_backlog_that_only_another_bridge_works_off_is_left_to_it(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    """The bridge without entries in it wrote the other one's entries ten times a second."""
    replicas = [start_bridge(), start_bridge()]
    ingested.apply(limits={"maxObjects": 1000, "maxPerUser": 8})
    for replica in replicas:
        eventually(partial(assigned, replica), 20)
    counts = [300, 20, 20, 20]
    for partition, count in enumerate(counts):
        ingested.produce(good(["big"] * count), partition)
    for partition, count in enumerate(counts):
        ingested.positioned(count, 60, partition)

    def left() -> list[int]:
        """Partitions that the user's backlog lists, when what was there has been finished."""
        for update in ingested.unfinished():
            ingested.finish(update)
        return [entry["partition"] for body in ingested.backlogs() for entry in body["spec"]["partitions"]]

    eventually(lambda: left() == [0], 60)
    before = backlog_writes(ingested.kube)
    ingested.produce(good(["small"]), 1)
    ingested.positioned(21, partition=1)
    assert backlog_writes(ingested.kube) - before <= 4


def test_backlogs_move_with_their_partitions(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    first = start_bridge()
    ingested.apply()
    for partition in range(PARTITIONS):
        ingested.produce(good(["big"] * 100), partition)
    positioned(ingested, 100)
    start_bridge()
    first.stop()
    ingested.drain(120)
    ingested.has_made(everything(100))
