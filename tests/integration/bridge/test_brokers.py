"""One broker of several is away, and with it some partitions: the others go on, nothing is left out or read twice."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import confluent_kafka as ck
import pytest
from confluent_kafka import admin as ck_admin

from controller.kafka import AdminClient, AdminClients, KafkaError, TopicLookup
from devenv import broker
from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream, good, group_consumer
from tests.support.eventually import eventually, eventually_async
from tests.support.kube import Kube

#: The second broker of the cluster, and its id.
SECOND, NODE = "kafka-2", 2


@pytest.fixture(scope="module")
def brokers(environment: Environment) -> Iterator[Environment]:
    """The session's broker and a second one. What Kafka keeps for itself is on the first, which nobody stops."""
    with group_consumer(environment.bootstrap_servers, "before-the-second") as consumer:
        eventually(lambda: consumer.committed([ck.TopicPartition("none", 0)], timeout=5), 30)
    environment.start(SECOND)
    yield environment
    environment.stop(SECOND)


@pytest.fixture
def ingested(brokers: Environment, kube: Kube, namespace: str) -> Iterator[BridgeStream]:
    """Partition 0 is on the first broker, 1 on the second."""
    brokers.start(SECOND)
    topic = f"test-{secrets.token_hex(4)}"
    broker.create_topic(brokers.bootstrap_servers, topic, nodes=[1, NODE])
    yield BridgeStream(kube, brokers.bootstrap_servers, namespace, topic)
    brokers.start(SECOND)
    broker.delete_topic(brokers.bootstrap_servers, topic)


def test_first_positions_are_those_of_all_partitions_or_none(
    ingested: BridgeStream, brokers: Environment, start_bridge: StartReplica
) -> None:
    for partition in (0, 1):
        ingested.produce(good(["old", "old", "new"]), partition)
    with group_consumer(ingested.bootstrap, ingested.topic) as consumer:
        commits = [ck.TopicPartition(ingested.topic, partition, 2) for partition in (0, 1)]
        consumer.commit(offsets=commits, asynchronous=False)
    brokers.kill(SECOND)
    start_bridge()
    ingested.apply()
    ingested.reason("LeaderNotAvailable", 30)
    assert "do not answer, as without a leader: 1;" in ingested.condition()["message"]
    assert not ingested.status().get("partitions")
    brokers.start(SECOND)
    for partition in (0, 1):
        ingested.positioned(3, 40, partition)
    ingested.has_made([(0, 2), (1, 2)])


def test_a_partition_without_a_leader_is_waited_for_at_no_cost(
    ingested: BridgeStream, brokers: Environment, start_bridge: StartReplica
) -> None:
    """What is unfinished is listed once for an assignment, not each time that a partition does not answer.

    A rebalance meanwhile changes nothing.
    """
    bridge = start_bridge()
    ingested.apply()
    for partition in (0, 1):
        ingested.produce(good(["ana"]), partition)
        ingested.positioned(1, 30, partition)
    bridge.kill()
    brokers.kill(SECOND)
    bridge.start()
    ingested.produce(good(["bo"]), 0)
    ingested.positioned(2, 40, 0)
    lists = ("userupdates", "rejectedevents")
    before = [listed(ingested.kube, plural) for plural in lists]
    ingested.reason("LeaderNotAvailable", 30)
    assert [listed(ingested.kube, plural) for plural in lists] == before
    second = start_bridge()
    eventually(lambda: "Partitions assigned" in second.log.read_text(), 30)
    brokers.start(SECOND)
    ingested.produce(good(["cy"]), 1)
    ingested.positioned(2, 40, 1)
    eventually(lambda: ingested.condition()["status"] == "True", 30)
    ingested.has_made([(0, 0), (0, 1), (1, 0), (1, 1)])


def listed(kube: Kube, plural: str) -> int:
    return sum(count for (verb, _), count in kube.requests(plural).items() if verb == "LIST")


async def test_questions_go_on_when_the_broker_that_was_asked_has_died(
    ingested: BridgeStream, brokers: Environment
) -> None:
    """The one that librdkafka takes for the controller; each answer about the cluster names another."""
    admins = AdminClients()
    admin = admins.acquire({"bootstrap.servers": ingested.bootstrap, "log_level": 0})
    lookup = TopicLookup(admin, ingested.topic)
    await asyncio.to_thread(eventually, lambda: takes_for_controller(admin) == NODE)
    await asyncio.to_thread(brokers.kill, SECOND)

    async def answered() -> bool:
        try:
            return (await lookup.describe()).partitions == 2
        except KafkaError as error:
            raise AssertionError(error) from error

    await eventually_async(answered, 25)
    admins.release(admin)


def takes_for_controller(admin: AdminClient) -> int:
    client = admin._client
    assert isinstance(client, ck_admin.AdminClient)
    return int(client.list_topics(timeout=5).controller_id)
