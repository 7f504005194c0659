"""A bridge whose place in the group was taken: it takes it back, and says so meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import confluent_kafka as ck

from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream, good
from tests.support.eventually import eventually
from tests.support.kube import Kube


@contextmanager
def place_taken(ingested: BridgeStream, instance: str) -> Iterator[None]:
    """Another consumer joins under the member's own name: the coordinator fences the member."""
    consumer = ck.Consumer(
        {
            "bootstrap.servers": ingested.bootstrap,
            "group.id": ingested.topic,
            "group.instance.id": instance,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 10_000,
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([ingested.topic])
    try:
        eventually(lambda: consumer.poll(0.1) is None and consumer.assignment(), 30, every=0.01)
        yield
    finally:
        consumer.close()


def test_a_fenced_bridge_joins_again_and_goes_on(
    kube: Kube, environment: Environment, namespace: str, topic: str, start_bridge: StartReplica
) -> None:
    ingested = BridgeStream(kube, environment.bootstrap_servers, namespace, topic)
    bridge = start_bridge("bridge-fenced")
    ingested.apply()
    ingested.produce(good(["ana"]))
    ingested.positioned(1)
    with place_taken(ingested, f"{bridge.name}.{namespace}.{ingested.name}"):
        ingested.reason("MemberFenced")
    ingested.produce(good(["ana", "bob"]))
    ingested.positioned(3, 40)
    ingested.has_made([(0, 0), (0, 1), (0, 2)])
    ingested.reason("Consuming")
