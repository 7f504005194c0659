"""What keeps a bridge out of its consumer group is told in the stream's condition, in Kafka's words."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import confluent_kafka as ck
import pytest

from devenv import broker
from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream, good, group_consumer
from tests.support.eventually import eventually

OFFSETS = "__consumer_offsets"


class Brokers:
    """The session's broker, started anew with other settings."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.changed = False

    def set(self, **properties: str) -> None:
        command = broker.with_properties(self._environment.command("kafka"), properties)
        self.changed = self.changed or bool(properties)
        self._environment.processes.start(command)
        self._environment.processes.wait_ready(command)
        self.changed = bool(properties)


@pytest.fixture
def brokers(environment: Environment) -> Iterator[Brokers]:
    found = Brokers(environment)
    yield found
    if found.changed:
        found.set()
    with group_consumer(environment.bootstrap_servers, "after") as consumer:
        eventually(lambda: consumer.committed([ck.TopicPartition("none", 0)], timeout=5), 30)


def told(ingested: BridgeStream, reason: str, words: str, within: float = 40) -> None:
    ingested.reason(reason, within)
    assert words in ingested.condition()["message"]
    assert ingested.condition()["status"] != "True"


def test_a_group_without_a_coordinator(ingested: BridgeStream, start_bridge: StartReplica, brokers: Brokers) -> None:
    brokers.set(**{"offsets.topic.replication.factor": "3"})  # more than there are brokers: it is not made again
    broker.delete_topic(ingested.bootstrap, OFFSETS)
    ingested.apply()
    start_bridge()  # it is ready when it has told: one stream without a group keeps no rollout waiting
    told(ingested, "CoordinatorUnavailable", "__consumer_offsets", 1)
    brokers.set()
    ingested.produce(good(["ana"]))
    ingested.positioned(1, 30)


#: A member that says when it has its partitions.
STRANGER = """
import sys, confluent_kafka
servers, name = sys.argv[1:]
way = {"partition.assignment.strategy": "cooperative-sticky", "client.id": "stranger"}
consumer = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": name, **way})
consumer.subscribe([name])
while not consumer.assignment():
    consumer.poll(0.1)
print("assigned", flush=True)
while True:
    consumer.poll(0.1)
"""


def test_a_member_that_holds_up_the_rebalance(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    """No error is known: librdkafka waits, as the coordinator does, until the session of who is frozen ends."""
    arguments = [sys.executable, "-c", STRANGER, ingested.bootstrap, ingested.topic]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as stranger:
        try:
            assert stranger.stdout and stranger.stdout.readline() == b"assigned\n"
            stranger.send_signal(signal.SIGSTOP)
            ingested.apply()
            start_bridge()
            told(ingested, "Joining", "PREPARING_REBALANCING")
            assert "stranger" in ingested.condition()["message"]
        finally:
            stranger.kill()
