"""The run's topic: made anew, filled at the times that the workload says, read back at the end. Blocking."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from confluent_kafka import Consumer, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.cimpl import NewPartitions

from controller.api import names
from devenv import broker, probes
from devenv.errors import CommandFailed
from tests.chaos.history import StoredRecord
from tests.chaos.workload import SentRecord

_SECONDS = 30.0
#: A broker that is killed or cut off comes back: until then records wait in the producer.
_DELIVERY_SECONDS = 300


def create(bootstrap_servers: str, topic: str, partitions: int, nodes: Sequence[int] = ()) -> str:
    """Create the topic, its partitions on those brokers where given; Kafka's text of its id. Raises CommandFailed."""
    broker.create_topic(bootstrap_servers, topic, partitions, nodes)
    deadline = time.monotonic() + _SECONDS
    while True:
        client = probes.admin(bootstrap_servers)
        try:
            description = client.describe_topics(TopicCollection([topic]))[topic].result(timeout=_SECONDS)
            uuid = description.topic_id
            return names.topic_id_text(uuid.get_most_significant_bits(), uuid.get_least_significant_bits())
        except KafkaException as failed:
            if time.monotonic() > deadline:
                raise CommandFailed(f"topic {topic} cannot be described: {failed.args[0].str()}") from failed
            time.sleep(0.1)


def grow(bootstrap_servers: str, topic: str) -> int:
    """Add a partition; its number, once brokers tell of it. Raises CommandFailed."""
    deadline = time.monotonic() + _SECONDS
    while True:
        client = probes.admin(bootstrap_servers)
        try:
            count = len(client.list_topics(topic, timeout=_SECONDS).topics[topic].partitions)
            client.create_partitions([NewPartitions(topic, count + 1)])[topic].result(timeout=_SECONDS)
            while len(client.list_topics(topic, timeout=_SECONDS).topics[topic].partitions) <= count:
                time.sleep(0.1)
            return count
        except KafkaException as failed:
            if time.monotonic() > deadline:
                raise CommandFailed(f"topic {topic} cannot get a partition: {failed.args[0].str()}") from failed
            time.sleep(0.1)


def produce(
    bootstrap_servers: str, topic: str, records: Iterable[SentRecord], start: float, stop: threading.Event
) -> None:
    """Send each record when its time has come, counted from the monotonic `start`, in order and each once.

    Returns when all are stored, or soon after `stop` is set. Raises CommandFailed.
    """
    failed: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "message.max.bytes": broker.MAX_RECORD_BYTES,
            "message.timeout.ms": _DELIVERY_SECONDS * 1000,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
        }
    )
    for record in records:
        while (wait := start + record.at - time.monotonic()) > 0 and not stop.is_set():
            producer.poll(min(wait, 0.1))
        producer.produce(
            topic,
            record.value,
            record.key,
            partition=record.partition,
            on_delivery=lambda error, _: failed.append(str(error)) if error else None,
        )
    while (left := producer.flush(1.0)) and not stop.is_set():
        pass
    if left or failed:
        raise CommandFailed(f"Kafka did not store {left + len(failed)} records: {failed[:1] or 'no answer'}")


def read(bootstrap_servers: str, topic: str, ends: Mapping[int, int]) -> list[StoredRecord]:
    """All records from the first to the given ends of the partitions. Raises CommandFailed."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"{topic}-verdict",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        found: list[StoredRecord] = []
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        missing = sum(ends.values())
        while missing > 0:
            message = consumer.poll(_SECONDS)
            if message is None or message.error():
                raise CommandFailed(f"topic {topic} cannot be read back: {message.error() if message else 'no answer'}")
            found.append(StoredRecord(message.partition() or 0, message.offset() or 0, message.key(), message.value()))
            missing -= 1
        return found
    except KafkaException as failed:
        raise CommandFailed(f"topic {topic} cannot be read back: {failed}") from failed
    finally:
        consumer.close()
