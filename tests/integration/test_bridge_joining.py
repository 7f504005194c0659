"""What keeps a bridge out of its consumer group is told in the stream's condition, in Kafka's words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from controller.devenv import broker
from controller.devenv.environment import Environment
from tests.conftest import StartReplica
from tests.eventually import eventually
from tests.ingest import Ingested, good, group_consumer
from tests.kube import Kube

pytestmark = pytest.mark.timeout(120)

OFFSETS = "__consumer_offsets"


class Brokers:
    """The session's broker, started anew with other settings."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def set(self, **properties: str) -> None:
        command = broker.with_properties(self._environment.command("kafka"), properties)
        self._environment.processes.start(command)
        self._environment.processes.wait_ready(command)


@pytest.fixture
def brokers(environment: Environment) -> Iterator[Brokers]:
    found = Brokers(environment)
    yield found
    found.set()
    with group_consumer(environment.bootstrap_servers, "after") as consumer:
        eventually(lambda: consumer.committed([], timeout=5) == [], 30)


@pytest.fixture
def ingested(kube: Kube, environment: Environment, namespace: str, topic: str) -> Ingested:
    return Ingested(kube, environment.bootstrap_servers, namespace, topic)


def told(ingested: Ingested, reason: str, words: str, within: float = 40) -> None:
    ingested.reason(reason, within)
    assert words in ingested.condition()["message"]
    assert ingested.condition()["status"] != "True"


def test_a_group_without_a_coordinator(ingested: Ingested, start_bridge: StartReplica, brokers: Brokers) -> None:
    brokers.set(**{"offsets.topic.replication.factor": "3"})  # more than there are brokers: it is not made again
    broker.delete_topic(ingested.bootstrap, OFFSETS)
    ingested.apply()
    start_bridge()  # it is ready when it has told: one stream without a group keeps no rollout waiting
    told(ingested, "CoordinatorUnavailable", "__consumer_offsets", 1)
    brokers.set()
    ingested.produce(good(["ana"]))
    ingested.positioned(1, 30)


def test_a_member_that_holds_up_the_rebalance(ingested: Ingested, start_bridge: StartReplica) -> None:
    """No error is known: librdkafka waits, as the coordinator does."""
    config = {"partition.assignment.strategy": "cooperative-sticky", "client.id": "stranger"}
    with group_consumer(ingested.bootstrap, ingested.topic, **config) as other:
        other.subscribe([ingested.topic])
        eventually(lambda: (other.poll(0.1), other.assignment())[1], 20)
        start_bridge()
        ingested.apply()  # from here on the other one does not poll
        told(ingested, "Joining", "PREPARING_REBALANCING")
        assert "stranger" in ingested.condition()["message"]
    ingested.produce(good(["ana"]))
    ingested.positioned(1, 30)
