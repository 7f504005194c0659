"""Real consumption with what a stream may set of the Kafka client, at its bounds."""

from __future__ import annotations

import secrets

import pytest

from controller.kafka.config import NUMERIC_PROPERTIES
from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream, good
from tests.support.eventually import eventually
from tests.support.kube import Kube

SWITCHES = ("socket.keepalive.enable", "socket.nagle.disable")


@pytest.mark.parametrize(("bound", "switch"), [(0, "false"), (1, "true")], ids=["lowest", "highest"])
def test_a_stream_at_the_bounds_is_read(
    kube: Kube,
    environment: Environment,
    namespace: str,
    topic: str,
    start_bridge: StartReplica,
    bound: int,
    switch: str,
) -> None:
    """Records and batches of any size that the broker takes, and what comes later."""
    ingested = BridgeStream(kube, environment.bootstrap_servers, namespace, topic)
    ingested.produce(good(f"user{number}" for number in range(300)))
    ingested.produce([("big", secrets.token_bytes((8 << 20) - 1000))])
    ingested.produce(good(["ana"]))
    config = {name: str(bounds[bound]) for name, bounds in NUMERIC_PROPERTIES.items()} | dict.fromkeys(SWITCHES, switch)
    start_bridge()
    ingested.apply(kafka={"config": {**config, "client.rack": "a"}})
    ingested.positioned(302, 30)
    ingested.produce(good(["bo"]))
    eventually(lambda: ingested.count() == 302, 10)
    assert [entry["reason"] for entry in ingested.rejected()] == ["TooLarge"]
    assert ingested.condition()["status"] == "True"
