"""Many streams in flood at once: each has its part of the memory that a few may fill."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from devenv import broker
from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.records import GOOD
from tests.support.replicas import Replica

STREAMS = 12
MIB = 1 << 20


@pytest.fixture
def streams(kube: Kube, environment: Environment, namespace: str) -> Iterator[list[BridgeStream]]:
    servers = environment.bootstrap_servers
    made = [BridgeStream(kube, servers, namespace, f"{namespace}-{n}", name=f"events-{n}") for n in range(STREAMS)]
    for each in made:
        broker.create_topic(servers, each.topic)
    yield made
    for each in made:
        broker.delete_topic(servers, each.topic)


def resident(bridge: Replica) -> int:
    return int(psutil.Process(bridge.pid).memory_info().rss)


def test_a_dozen_streams_in_flood_share_the_memory(streams: list[BridgeStream], start_bridge: StartReplica) -> None:
    large = GOOD | {"profile": "x" * 4000}
    bridge = start_bridge()
    for each in streams:
        each.produce((f"user{number % 100}", large) for number in range(8_000))
        each.apply(limits={"maxObjects": 20, "maxPerUser": 2})
    memory: list[int] = []
    is_full: list[bool] = []

    def full() -> bool:
        """Whether all have been full for as long as it took to get there: what still grew would show."""
        memory.append(resident(bridge))
        is_full.append(all(each.condition().get("reason") == "MaxObjectsReached" for each in streams))
        return sum(is_full) > len(is_full) / 2 + 5

    eventually(full, 200, every=0.5)
    print(f"most memory of a bridge with {STREAMS} streams in flood: {max(memory) // MIB} MiB")
    assert max(memory) < 300 * MIB
    for each in streams:
        assert len(each.unfinished()) == 20
