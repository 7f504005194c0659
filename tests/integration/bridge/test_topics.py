"""The topic and the group change under the bridge: made later, made again, grown, cut, with gaps, without commits."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from controller.api.names import record_name
from controller.kafka import AdminClients, KafkaError, TopicLookup
from devenv import broker
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream, first_offsets, good, users
from tests.support.eventually import eventually, eventually_async, throughout
from tests.support.records import GOOD
from tests.support.replicas import Replica


def admin(ingested: BridgeStream) -> AdminClient:
    """To be held until its answers are there: dropping it ends its requests."""
    return AdminClient({"bootstrap.servers": ingested.bootstrap})


def test_a_lost_group_changes_nothing(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["ana", "bo"]))
    ingested.positioned(2)
    for update in ingested.updates():
        ingested.kube.delete(ingested.namespace, "userupdates", update["metadata"]["name"])
    bridge.kill()

    client = admin(ingested)

    def deleted() -> bool:
        try:
            client.delete_consumer_groups([ingested.topic])[ingested.topic].result(60)
        except ck.KafkaException as error:
            # The dead member is still in it until its session ends.
            assert error.args[0].code() == ck.KafkaError.GROUP_ID_NOT_FOUND, error
        return True

    eventually(deleted, 30)
    bridge.start()
    ingested.produce(good(["cy"]))
    ingested.positioned(3)
    ingested.has_made([(0, 2)])


def test_without_an_entry_the_commit_decides(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    ingested.produce(good(["ana", "bo", "cy"]))
    consumer = ck.Consumer({"bootstrap.servers": ingested.bootstrap, "group.id": ingested.topic})
    consumer.commit(offsets=[ck.TopicPartition(ingested.topic, 0, 2)], asynchronous=False)
    consumer.close()
    start_bridge()
    ingested.apply()
    ingested.positioned(3)
    ingested.has_made([(0, 2)])


def test_group_offsets_that_somebody_set_do_not_count_and_are_told_of(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["ana", "bo", "cy"]))
    ingested.positioned(3)
    for update in ingested.updates():
        ingested.kube.delete(ingested.namespace, "userupdates", update["metadata"]["name"])
    bridge.kill()
    _set_offset(ingested, ingested.topic, 1)
    bridge.start()
    (told,) = eventually(lambda: _events(ingested, "OffsetsIgnored"), 30)
    assert "partition 0 at 1, not 3" in told["note"]
    (line,) = [line for line in bridge.log.read_text().splitlines() if told["note"] in line]
    assert line.endswith(f"stream={ingested.namespace}/{ingested.name}")
    ingested.produce(good(["dan"]))
    ingested.positioned(4)
    ingested.has_made([(0, 3)])
    bridge.kill()
    bridge.start()
    ingested.produce(good(["eve"]))
    ingested.positioned(5)
    assert len(_events(ingested, "OffsetsIgnored")) == 1


def test_another_stream_reads_a_topic_again(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    """As docs/backup.md says: from the offsets that its own group was given before it was applied."""
    start_bridge()
    ingested.apply()
    ingested.produce(good(["ana", "bo", "cy"]))
    ingested.positioned(3)
    again = replace(ingested, name="events-again")
    group = f"{ingested.topic}-again"
    _set_offset(ingested, group, 1)
    again.apply(kafka={"groupId": group})
    again.positioned(3)
    made = [(update["spec"]["stream"], update["spec"]["source"]["offset"]) for update in ingested.updates()]
    assert sorted(made) == [("events", 0), ("events", 1), ("events", 2), ("events-again", 1), ("events-again", 2)]


def test_looks_at_topics_that_are_missing_cost_no_threads(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    bridge = start_bridge()
    streams = [replace(ingested, name=f"missing-{number}", topic=f"missing-{number}") for number in range(10)]
    for stream in streams:
        stream.apply()
    for stream in streams:
        stream.reason("TopicMissing")
    asked = ingested.kube.requests("updatestreams")["GET", "200"]
    first = _threads(bridge.pid)
    # Each looks once a second.
    throughout(lambda: _threads(bridge.pid) <= first + 3, 5)
    assert first <= 40, "more than those of the process and one client"
    assert ingested.kube.requests("updatestreams")["GET", "200"] - asked < 2 * len(streams), "it is told of once"


async def test_a_way_to_kafka_that_nobody_uses_any_more_has_no_threads(ingested: BridgeStream) -> None:
    """At once, also while somebody keeps an error: the threads do not wait for the garbage collector."""
    admins = AdminClients()
    before = _threads(os.getpid())
    config = {"bootstrap.servers": ingested.bootstrap}
    first, second = admins.acquire(config), admins.acquire({**config, "fetch.min.bytes": 1})
    assert first is second
    with pytest.raises(KafkaError) as kept:
        await TopicLookup(first, "missing").describe()
    admins.release(first)
    await TopicLookup(second, ingested.topic).describe()
    assert _threads(os.getpid()) > before
    admins.release(second)
    await eventually_async(partial(_has_threads, before), 5)
    assert kept.value.reason == "TopicMissing"


def test_a_topic_that_comes_later_is_consumed(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    broker.delete_topic(ingested.bootstrap, ingested.topic)
    start_bridge()
    ingested.apply()
    ingested.reason("TopicMissing")
    broker.create_topic(ingested.bootstrap, ingested.topic)
    ingested.produce(good(["ana"]))
    ingested.positioned(1, 15)


def test_a_topic_made_again_starts_anew(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    ingested.produce(good(["ana", "bo"]))
    ingested.positioned(2)
    ingested.make_topic_again()
    # More than there were: read on from the old position they would look like the old topic's.
    ingested.produce(good(["ana", "bo", "cy", "dan"]))
    eventually(lambda: len(ingested.status().get("partitions", ())) == 2, 30)
    ingested.positioned(4, 20)
    updates = ingested.updates()
    ids = [update["spec"]["source"]["topicId"] for update in updates]
    assert sorted(ids.count(topic_id) for topic_id in set(ids)) == [2, 4]
    assert len({update["metadata"]["name"] for update in updates}) == 6


def test_partitions_that_are_added_are_consumed(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    ingested.produce(good(["ana"]))
    ingested.positioned(1)
    client = admin(ingested)
    client.create_partitions([NewPartitions(ingested.topic, 3)])[ingested.topic].result(60)
    # The controller has made them; the broker tells of them a moment later, and producers ask the broker.
    eventually(lambda: len(client.list_topics(ingested.topic).topics[ingested.topic].partitions) == 3)
    ingested.produce(good(["bo", "cy"]), partition=2)
    ingested.positioned(2, 30, partition=2)
    ingested.has_made([(0, 0), (2, 0), (2, 1)])


def test_gaps_of_transactions_do_not_stall_the_position(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    producer = ck.Producer({"bootstrap.servers": ingested.bootstrap, "transactional.id": ingested.topic})
    producer.init_transactions(30)
    for number, end in enumerate((producer.commit_transaction, producer.abort_transaction) * 2):
        producer.begin_transaction()
        producer.produce(ingested.topic, key=f"user{number}", value=b"{}" if number == 2 else _json())
        producer.flush(10)
        end(30)
    # Four records, each with its marker; two were aborted, one is poison.
    ingested.positioned(8)
    ingested.has_made([(0, 0)])
    assert [entry["source"]["offset"] for entry in ingested.rejected()] == [4]


def test_a_transaction_that_stays_open_is_told_of(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    """Nothing behind it is read, though the producers of it have no part in the transaction."""
    start_bridge()
    ingested.apply()
    producer = ck.Producer({"bootstrap.servers": ingested.bootstrap, "transactional.id": ingested.topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(ingested.topic, key="ana", value=_json())
    producer.flush(10)
    ingested.produce(good(["bo"]))
    ingested.reason("TransactionOpen", 30)
    assert "0 at offset 0;" in ingested.condition()["message"]
    assert ingested.offsets() == []
    producer.commit_transaction(30)
    ingested.positioned(3)
    ingested.reason("Consuming", 20)
    ingested.has_made([(0, 0), (0, 1)])


def test_records_removed_before_they_were_read_are_shown(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["ana"]))
    ingested.positioned(1)
    bridge.kill()
    ingested.produce(good(users(10, 1)))
    _remove_below(ingested, 5)
    bridge.start()
    ingested.positioned(11)
    ingested.has_made([(0, 0), *first_offsets(11)[5:]])
    (expired,) = ingested.rejected()
    source = expired["source"]
    assert (expired["reason"], source["offset"], source["lastOffset"], expired["count"]) == ("PayloadExpired", 1, 4, 4)


def test_more_is_removed_while_a_bridge_that_has_shown_some_is_down(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    """It had been killed before the position said so."""
    bridge = _stopped_at_one(ingested, start_bridge)
    ingested.produce(good(users(10, 1)))
    _show_before_position(ingested, "PayloadExpired", 4)
    _remove_below(ingested, 8)
    bridge.start()
    ingested.positioned(11)
    assert _shown(ingested) == [("PayloadExpired", 1, 7, 7)]
    ingested.has_made([(0, 0), *first_offsets(11)[8:]])


def test_a_bad_record_that_was_shown_is_not_what_expired_behind_it(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    bridge = _stopped_at_one(ingested, start_bridge)
    ingested.produce([("bo", b"{"), *good(users(10, 1))])
    _show_before_position(ingested, "NotJSON", 1)
    _remove_below(ingested, 8)
    bridge.start()
    ingested.positioned(12)
    assert _shown(ingested) == [("NotJSON", 1, 1, 1), ("PayloadExpired", 2, 7, 6)]


def _stopped_at_one(ingested: BridgeStream, start_bridge: StartReplica) -> Replica:
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["ana"]))
    ingested.positioned(1)
    bridge.kill()
    return bridge


def _show_before_position(ingested: BridgeStream, reason: str, last: int) -> None:
    """Records from 1 on are shown as a bridge does that is killed before it writes its position."""
    topic_id = ingested.entry()["topicId"]
    source = {"topic": ingested.topic, "topicId": topic_id, "partition": 0, "offset": 1, "lastOffset": last}
    spec = {"stream": ingested.name, "reason": reason, "source": source, "count": last}
    name = record_name(ingested.name, topic_id, 0, 1)
    ingested.kube.create(ingested.namespace, "rejectedevents", {"metadata": {"name": name}, "spec": spec})


def _shown(ingested: BridgeStream) -> list[tuple[str, int, int, int]]:
    """(reason, first and last offset, count) of each RejectedEvent."""
    found = [(spec["reason"], spec["source"], spec["count"]) for spec in ingested.rejected()]
    return sorted((reason, source["offset"], source["lastOffset"], count) for reason, source, count in found)


def test_records_removed_while_they_waited_are_shown(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["big"] * 100))
    ingested.positioned(100, 30)
    bridge.kill()
    _remove_below(ingested, 50)
    bridge.start()
    ingested.drain(60)
    ingested.has_made(first_offsets(100)[:5] + first_offsets(100)[50:])
    assert sum(entry["count"] for entry in ingested.rejected()) == 45
    assert {entry["reason"] for entry in ingested.rejected()} == {"PayloadExpired"}


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


async def _has_threads(count: int) -> bool:
    return _threads(os.getpid()) <= count


def _set_offset(ingested: BridgeStream, group: str, offset: int) -> None:
    """As kafka-consumer-groups --reset-offsets does it, which a group with members refuses."""
    client = admin(ingested)
    where = ck.ConsumerGroupTopicPartitions(group, [ck.TopicPartition(ingested.topic, 0, offset)])

    def done() -> bool:
        (answer,) = client.alter_consumer_group_offsets([where])[group].result(60).topic_partitions
        assert answer.error is None, answer.error
        return True

    eventually(done, 30)


def _events(ingested: BridgeStream, reason: str) -> list[dict[str, Any]]:
    found = ingested.kube.call("GET", f"/apis/events.k8s.io/v1/namespaces/{ingested.namespace}/events")["items"]
    return [event for event in found if event["reason"] == reason]


def _json() -> bytes:
    return json.dumps(GOOD).encode()


def _remove_below(ingested: BridgeStream, offset: int) -> None:
    where = ck.TopicPartition(ingested.topic, 0, offset)
    client = admin(ingested)
    client.delete_records([where])[where].result(60)
