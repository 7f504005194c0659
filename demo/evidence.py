"""Collects what a play left in Kafka, in the API server and in the downstream's journal. `verdict` judges it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from controller.clients.cluster import REJECTED, STREAMS, UPDATES, Cluster
from demo.errors import DemoFailed
from demo.scenario import NAMESPACE, STREAM, TOPIC, Record
from devenv.journal import Call, read_calls

Body: TypeAlias = dict[str, Any]

KAFKA_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as Kafka has it."""

    partition: int
    offset: int
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Crash:
    """The state when the controller was killed. Times are wall times in nanoseconds."""

    #: When it was dead for certain.
    killed_ns: int
    #: When it was started again.
    restarted_ns: int
    #: (update, step) of all checkpoints that the API server had after the kill.
    recorded: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the verdict is based on."""

    records: tuple[StoredRecord, ...]
    updates: tuple[Body, ...]
    rejected: tuple[Body, ...]
    #: The UpdateStream.
    stream: Body
    calls: tuple[Call, ...]
    crash: Crash


async def gather(
    cluster: Cluster, downstream: httpx.AsyncClient, records: Iterable[StoredRecord], crash: Crash
) -> Evidence:
    """Read the final state. Raises ApiError, httpx.HTTPError."""
    updates = await cluster.list(UPDATES, NAMESPACE)
    rejected = await cluster.list(REJECTED, NAMESPACE)
    return Evidence(
        records=tuple(records),
        updates=tuple(updates.items),
        rejected=tuple(rejected.items),
        stream=await cluster.get(STREAMS, NAMESPACE, STREAM),
        calls=tuple(await read_journal(downstream)),
        crash=crash,
    )


def position(stream: Body) -> int | None:
    """The position of the topic's one partition in the UpdateStream's status."""
    partitions = (stream.get("status") or {}).get("partitions") or [{}]
    found: int | None = partitions[0].get("position")
    return found


async def recorded_steps(cluster: Cluster) -> frozenset[tuple[str, str]]:
    """(update, step) of every checkpoint. Raises ApiError."""
    listing = await cluster.list(UPDATES, NAMESPACE)
    return frozenset(
        (body["metadata"]["name"], step["name"])
        for body in listing.items
        for step in (body.get("status") or {}).get("steps", ())
    )


async def read_journal(downstream: httpx.AsyncClient) -> list[Call]:
    """The calls that the downstream has received so far. Raises httpx.HTTPError."""
    response = await downstream.get("/journal")
    response.raise_for_status()
    return read_calls(json.loads(line) for line in response.text.splitlines())


def produce(bootstrap_servers: str, records: Iterable[Record]) -> None:
    """Send the records in this order and wait until Kafka has stored all of them. Raises DemoFailed."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "acks": "all", "max.in.flight": 1})
    failed: list[str] = []
    for record in records:
        producer.produce(
            TOPIC, record.value, record.key, on_delivery=lambda error, _: failed.append(str(error)) if error else None
        )
    left = producer.flush(KAFKA_SECONDS)
    if left or failed:
        raise DemoFailed(f"{left + len(failed)} records were not stored by Kafka: {failed[:1] or 'no answer'}")


def read_topic(bootstrap_servers: str) -> list[StoredRecord]:
    """The records in the topic's one partition. Raises DemoFailed."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": "demo-verdict", "enable.auto.commit": False}
    )
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=KAFKA_SECONDS)
        consumer.assign([TopicPartition(TOPIC, 0, 0)])
        found: list[StoredRecord] = []
        while not found or found[-1].offset < end - 1:
            message = consumer.poll(KAFKA_SECONDS)
            if message is None or message.error():
                raise DemoFailed(f"topic {TOPIC} cannot be read back: {message.error() if message else 'no answer'}")
            partition, offset = message.partition() or 0, message.offset() or 0
            found.append(StoredRecord(partition, offset, message.key() or b"", message.value() or b""))
        return found
    except KafkaException as error:
        raise DemoFailed(f"topic {TOPIC} cannot be read back: {error}") from error
    finally:
        consumer.close()
