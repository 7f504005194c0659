"""A compacted topic that the broker cleans: of each key the last record stays, so that offsets have gaps anywhere."""

from __future__ import annotations

import json

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream, good, group_consumer
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.records import GOOD

#: What was written is cleaned once a later segment is begun, and one is begun by each write after so long.
SEGMENT_MS = 200
COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": str(SEGMENT_MS),
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": "0",
}


@pytest.fixture
def ingested(kube: Kube, environment: Environment, namespace: str, topic: str) -> BridgeStream:
    client = AdminClient({"bootstrap.servers": environment.bootstrap_servers})
    entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in COMPACTED.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    client.incremental_alter_configs([resource])[resource].result(60)
    return BridgeStream(kube, environment.bootstrap_servers, namespace, topic)


def test_gaps_at_the_start_in_the_middle_and_at_the_end(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    ingested.produce(good(["ana", "bo", "ana", "cy", "bo", "ana"]))
    assert cleaned(ingested) == {"cy": 3, "bo": 4, "ana": 5}
    ingested.produce(good(["dan", "dan", "eve"]))
    left = sorted(cleaned(ingested).values())
    assert len(left) == 5
    assert left[2] + 2 < left[3], "a gap in the middle"
    end = ends_at(ingested)
    assert left[-1] + 1 < end, "a gap at the end"
    start_bridge()
    ingested.apply()
    ingested.positioned(end)
    ingested.has_made([(0, offset) for offset in left])
    assert ingested.rejected() == []
    ingested.produce(good(["flo"]))
    ingested.positioned(end + 1)


def test_what_is_cleaned_away_while_it_waits_is_shown(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    bridge = start_bridge()
    ingested.apply(limits={"maxObjects": 1000, "maxPerUser": 5})
    ingested.produce(good(["big"] * 40))
    ingested.positioned(40, 30)
    bridge.kill()
    assert cleaned(ingested) == {"big": 39}
    bridge.start()
    ingested.produce(good(["ana"]))
    end = ends_at(ingested)
    ingested.drain(60)
    ingested.positioned(end)
    users = {update["spec"]["source"]["offset"]: update["spec"]["user"] for update in ingested.updates()}
    assert sorted(offset for offset, user in users.items() if user == "big") == [0, 1, 2, 3, 4, 39]
    assert "ana" in users.values()
    assert {entry["reason"] for entry in ingested.rejected()} == {"PayloadExpired"}
    gone = sorted(
        offset
        for entry in ingested.rejected()
        for offset in range(entry["source"]["offset"], entry["source"]["lastOffset"] + 1)
    )
    assert gone == list(range(5, 39))
    assert sum(entry["count"] for entry in ingested.rejected()) == 34


def cleaned(ingested: BridgeStream) -> dict[str, int]:
    """Wait until no key has two records left; the offset of each."""

    def look() -> dict[str, int]:
        write_nothing(ingested)
        found = readable(ingested)
        assert len(dict(found)) == len(found), found
        return dict(found)

    return eventually(look, 60, every=2 * SEGMENT_MS / 1000)


def write_nothing(ingested: BridgeStream) -> None:
    """A transaction that is given up: no consumer sees its record, and a segment is begun by it."""
    producer = ck.Producer({"bootstrap.servers": ingested.bootstrap, "transactional.id": ingested.topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(ingested.topic, key="nobody", value=json.dumps(GOOD).encode())
    producer.flush(10)
    producer.abort_transaction(30)


def readable(ingested: BridgeStream) -> list[tuple[str, int]]:
    """Key and offset of all records that a consumer sees."""
    consumer = ck.Consumer(
        {"bootstrap.servers": ingested.bootstrap, "group.id": f"{ingested.topic}-look", "enable.partition.eof": True}
    )
    try:
        consumer.assign([ck.TopicPartition(ingested.topic, 0, 0)])
        found: list[tuple[str, int]] = []
        while (message := consumer.poll(10)) is not None and message.error() is None:
            found.append(((message.key() or b"").decode(), message.offset() or 0))
        return found
    finally:
        consumer.close()


def ends_at(ingested: BridgeStream) -> int:
    """The offset of the next record to come."""
    with group_consumer(ingested.bootstrap, f"{ingested.topic}-look") as consumer:
        return int(consumer.get_watermark_offsets(ck.TopicPartition(ingested.topic, 0), timeout=10)[1])
