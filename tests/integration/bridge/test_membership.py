"""The members of a group have the topic's partitions among them, also where nobody has told the coordinator of some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest
from confluent_kafka.cimpl import NewPartitions

from controller.api.update_stream import KafkaSpec
from controller.kafka import Assigned, Fetched, GroupMember, Notification, Revoked, Topic, client_config
from controller.kafka.group_member import MAX_UNCONSUMED
from devenv import probes
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream, good, group_consumer
from tests.support.eventually import eventually, eventually_async, throughout
from tests.support.kube import Kube
from tests.support.records import GOOD
from tests.support.replicas import Replica

T = TypeVar("T")


async def test_a_start_that_was_meant_for_an_earlier_assignment_reads_nothing(ingested: BridgeStream) -> None:
    """The partition went and came back meanwhile: what it has now begins where that assignment says."""
    add_partitions(ingested, 2)
    for partition in (0, 1):
        ingested.produce(good(["ana", "bo", "cy"]), partition)
    spec = KafkaSpec(ingested.bootstrap, ingested.topic, ingested.topic, {}, None)
    seen: list[Notification] = []
    member = GroupMember(client_config(spec, {}), Topic(ingested.topic, "id", 2), ingested.topic, "member", seen.append)

    async def assigned() -> list[int]:
        return [event.serial for event in seen if isinstance(event, Assigned) and event.partitions]

    def offsets(partition: int) -> list[int]:
        items = [item for event in seen if isinstance(event, Fetched) for item in event.items]
        return [item.offset for item in items if item.partition == partition]

    async def read(partition: int) -> bool:
        return 3 in offsets(partition)  # the end

    try:
        (serial,) = await eventually_async(assigned, within=30)
        member.fetch_from({(0, serial - 1): 0, (1, serial): 0})
        await eventually_async(partial(read, 1), within=30)
        member.fetch_from({(0, serial): 2})
        await eventually_async(partial(read, 0), within=30)
        assert offsets(0) == [2, 3]
    finally:
        await member.close()


async def test_a_member_without_room_keeps_nobody_from_joining(ingested: BridgeStream) -> None:
    """Nobody takes what it reads, as while the topic cannot be looked at; the other one gets its partition."""
    add_partitions(ingested, 2)
    big = {**GOOD, "more": "x" * 2000}
    for partition in (0, 1):
        ingested.produce([("ana", big)] * 2000, partition)
    spec = KafkaSpec(ingested.bootstrap, ingested.topic, ingested.topic, {}, None)
    seen: list[Notification] = []

    def deliver(event: Notification) -> None:
        seen.append(event)
        if isinstance(event, Revoked):
            event.released.set_result({})

    def assigned(count: int) -> list[Assigned]:
        found = [event for event in seen if isinstance(event, Assigned) and event.partitions]
        return found if len(found) >= count else []

    topic = Topic(ingested.topic, "id", 2)
    members = [GroupMember(client_config(spec, {}), topic, ingested.topic, "first", deliver)]
    try:
        (first,) = await eventually_async(partial(found, assigned, 1), within=30)
        members[0].fetch_from({(partition, first.serial): 0 for partition in first.partitions})
        await eventually_async(partial(found, full, seen), within=30)
        members.append(GroupMember(client_config(spec, {}), topic, ingested.topic, "second", deliver))
        _, second = await eventually_async(partial(found, assigned, 2), within=20)
        assert len(second.partitions) == 1
    finally:
        for member in members:
            await member.close()


def test_a_topic_made_again_with_fewer_partitions_is_not_waited_for(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    """A static member keeps what there is no more; nothing is wrong with the rest."""
    add_partitions(ingested, 3)
    begun(ingested, [start_bridge()])
    ingested.make_topic_again()
    ingested.produce(good(["ana", "bo", "cy"]))
    ingested.positioned(3, 60)
    throughout(lambda: ingested.condition()["status"] == "True", 11)


async def found(look: Callable[[Any], T], what: Any) -> T:
    return look(what)


def full(seen: list[Notification]) -> bool:
    return sum(event.size for event in seen if isinstance(event, Fetched)) >= MAX_UNCONSUMED


def test_who_is_not_let_into_the_group_says_so(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    with group_consumer(ingested.bootstrap, ingested.topic) as other:  # it assigns by ranges
        other.subscribe([ingested.topic])
        eventually(lambda: (other.poll(0.1), other.assignment())[1], 20)
        ingested.apply()

        def told() -> bool:
            other.poll(0)
            return ingested.condition().get("reason") == "GroupRefused"

        eventually(told, 20)
        assert "Inconsistent group protocol" in ingested.condition()["message"]
    ingested.produce(good(["ana"]))
    ingested.positioned(1)


def test_streams_that_share_a_group_say_so_and_whose_partitions_they_lack(
    kube: Kube, ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    """As where a manifest is copied and given another name alone: each would read a part, without a word."""
    add_partitions(ingested, 2)
    copy = replace(ingested, name="copy")
    start_bridge()
    for stream in (ingested, copy):
        stream.apply()
    for stream, other in ((ingested, copy), (copy, ingested)):
        stream.reason("GroupShared", 30)
        assert f".{stream.namespace}.{other.name}" in stream.condition()["message"]
    kube.delete(copy.namespace, "updatestreams", copy.name)
    for partition in (0, 1):
        ingested.produce(good(["ana", "bo"]), partition)
        ingested.positioned(2, 30, partition)
    ingested.reason("Consuming", 20)


def add_partitions(ingested: BridgeStream, count: int) -> None:
    client = probes.admin(ingested.bootstrap)
    client.create_partitions([NewPartitions(ingested.topic, count)])[ingested.topic].result(60)
    eventually(lambda: len(client.list_topics(ingested.topic).topics[ingested.topic].partitions) == count)


def begun(ingested: BridgeStream, bridges: list[Replica]) -> None:
    """Two records of the first partition are updates, and each bridge is a member."""
    ingested.apply()
    ingested.produce(good(["ana", "bo"]))
    ingested.positioned(2)
    for bridge in bridges:
        eventually(partial(has_partitions, bridge), 20)


def has_partitions(bridge: Replica) -> bool:
    return "Partitions assigned" in bridge.log.read_text()


def all_read(ingested: BridgeStream, partitions: int) -> None:
    for partition in range(1, partitions):
        ingested.produce(good(["cy", "dan"]), partition)
    for partition in range(partitions):
        ingested.positioned(2, 60, partition)
    eventually(lambda: ingested.condition()["status"] == "True", 30)
    ingested.has_made([(partition, offset) for partition in range(partitions) for offset in (0, 1)])


@pytest.mark.parametrize("end", [Replica.kill, Replica.stop], ids=["killed", "stopped"])
def test_partitions_that_are_added_while_the_bridge_is_down_are_consumed(
    ingested: BridgeStream, start_bridge: StartReplica, end: Callable[[Replica], None]
) -> None:
    bridge = start_bridge()
    begun(ingested, [bridge])
    end(bridge)
    ended = len(bridge.log.read_text())
    add_partitions(ingested, 3)
    bridge.start()
    ingested.reason("PartitionsUnassigned", 40)
    assert "these partitions: 1, 2;" in ingested.condition()["message"]
    all_read(ingested, 3)
    assert "Partitions revoked" not in bridge.log.read_text()[ended:], "partition 0 was disturbed"


def test_partitions_that_are_added_while_two_bridges_are_down_are_consumed(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    add_partitions(ingested, 2)
    bridges = [start_bridge(), start_bridge()]
    begun(ingested, bridges)
    for bridge in bridges:
        bridge.kill()
    add_partitions(ingested, 5)
    for bridge in bridges:
        bridge.start()
    all_read(ingested, 5)
    for bridge in bridges:
        assert bridge.log.read_text().count("joining again") <= 1


def test_a_topic_made_again_with_more_partitions_is_consumed_whole(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    start_bridge()
    begun(ingested, [])
    ingested.make_topic_again(3)
    for partition in range(3):
        ingested.produce(good(["ana", "bo", "cy"]), partition)
    for partition in range(3):
        ingested.positioned(3, 90, partition)
