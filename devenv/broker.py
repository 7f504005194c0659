"""Kafka: one KRaft node that is broker and controller, further brokers where a test wants them, and topics."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from confluent_kafka.cimpl import NewTopic

from devenv import probes
from devenv.errors import CommandFailed, StartFailed
from devenv.layout import HOST, Layout, Ports, write_atomically
from devenv.processes import Command

TOPIC = "user-updates"
MAX_RECORD_BYTES = 8 << 20
#: A little over the largest record: batch and record have headers.
MAX_BATCH_BYTES = MAX_RECORD_BYTES + (1 << 20)
#: Milliseconds until a record that no broker acknowledges counts as not sent.
SEND_MS = 10_000

#: The JVM names files by the locale's encoding: in the C locale it would take another folder than that of the checkout.
UTF8_LOCALE = {"LC_ALL": "C.UTF-8"}
#: Compiled by C1 alone, one collector thread: a broker of one developer starts in a third of the time.
JAVA_OPTIONS = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

PROPERTIES = f"""\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
message.max.bytes={MAX_BATCH_BYTES}
replica.fetch.max.bytes={MAX_BATCH_BYTES}
auto.create.topics.enable=true
num.partitions=1
group.initial.rebalance.delay.ms=0
# one node, so one replica of everything, and no partitions that nobody needs
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# after SIGKILL the controller waits for the old broker's session before it admits the new one
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# retention and compaction act within seconds; the default buffer would fill a quarter of the heap
log.initial.task.delay.ms=1000
log.retention.check.interval.ms=2000
log.cleaner.backoff.ms=1000
log.cleaner.dedupe.buffer.size=4194304
num.network.threads=2
num.io.threads=4
"""


def kafka(java: Path, jars: Path, layout: Layout, ports: Ports) -> Command:
    """The broker. Its data must have been formatted by `format_storage`."""
    return _command(java, jars, layout, "kafka", (ports.get("kafka"), ports.get("kafka-controller")))


def further(java: Path, jars: Path, layout: Layout, ports: Ports, name: str) -> Command:
    """Another broker of the same cluster, `kafka-2` and so on. Its data must have been formatted: `format_further`."""
    return _command(java, jars, layout, name, (ports.get(name),))


def _command(java: Path, jars: Path, layout: Layout, name: str, taken: tuple[int, ...]) -> Command:
    address = f"{HOST}:{taken[0]}"
    return Command(
        name=name,
        argv=(str(java), *JAVA_OPTIONS, "-cp", f"{jars}/*", "kafka.Kafka", str(_properties_path(layout, name))),
        environment=UTF8_LOCALE,
        probe=probes.kafka(address),
        url=address,
        ports=taken,
        ready_within=90.0,
    )


def with_listener(
    command: Command, ports: Ports, name: str, protocol: str, advertised: int, options: Mapping[str, str] | None = None
) -> Command:
    """A broker with one more listener, on the port `kafka-NAME`; clients are told that it is at `advertised`.

    `options` are properties of that listener alone.
    """
    broker, own = ports.get(command.name), ports.get(f"{command.name}-{name.lower()}")
    quorum = f",CONTROLLER://{HOST}:{ports.get('kafka-controller')}" if command.name == "kafka" else ""
    properties = {
        "listeners": f"PLAINTEXT://{HOST}:{broker},{name}://{HOST}:{own}{quorum}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{broker},{name}://{HOST}:{advertised}",
        "listener.security.protocol.map": f"PLAINTEXT:PLAINTEXT,{name}:{protocol},CONTROLLER:PLAINTEXT",
    }
    properties |= {f"listener.name.{name.lower()}.{key}": value for key, value in (options or {}).items()}
    return replace(with_properties(command, properties), ports=(*command.ports, own))


def with_passwords(
    command: Command, ports: Ports, keystore: Path, passwords: Mapping[str, str], clients: Path | None = None
) -> Command:
    """The broker with a listener SECURED: TLS, and by SASL/PLAIN the users that have a password.

    `keystore` is a PEM file: the private key in PKCS #8, then its certificates. `clients`, where given, is one with the
    authority of the certificates that clients must show.
    """
    users = " ".join(f'user_{user}="{password}"' for user, password in passwords.items())
    options = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "sasl.enabled.mechanisms": "PLAIN",
        "plain.sasl.jaas.config": f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};",
    }
    if clients is not None:
        options |= {
            "ssl.client.auth": "required",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(clients),
        }
    return with_listener(command, ports, "SECURED", "SASL_SSL", ports.get("kafka-secured"), options)


def with_rules(command: Command) -> Command:
    """The broker with ACLs. Without any ACL everybody may do everything, and anonymous clients always may."""
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "super.users": "User:ANONYMOUS",
    }
    return with_properties(command, properties)


def with_properties(command: Command, properties: Mapping[str, str]) -> Command:
    """A broker with these properties instead of those in its file."""
    overrides = [part for key, value in properties.items() for part in ("--override", f"{key}={value}")]
    return replace(command, argv=(*command.argv, *overrides))


def format_storage(java: Path, jars: Path, layout: Layout, ports: Ports) -> None:
    """Write server.properties, and format the log directory if that was not finished before. Raises StartFailed."""
    broker, quorum = ports.get("kafka"), ports.get("kafka-controller")
    addresses = {
        "listeners": f"PLAINTEXT://{HOST}:{broker},CONTROLLER://{HOST}:{quorum}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{broker}",
        "controller.quorum.bootstrap.servers": f"{HOST}:{quorum}",
    }
    # The first bit is 0: an id that begins with a dash would be taken for an option.
    first, *rest = uuid.uuid4().bytes
    cluster = base64.urlsafe_b64encode(bytes([first & 0x7F, *rest])).decode().rstrip("=")
    _format(java, jars, layout, "kafka", addresses, "--standalone", "--cluster-id", cluster)


def format_further(java: Path, jars: Path, layout: Layout, ports: Ports, name: str) -> None:
    """The same for another broker of the cluster, which must have run before. Raises StartFailed."""
    listener = f"PLAINTEXT://{HOST}:{ports.get(name)}"
    properties = {
        "process.roles": "broker",
        "node.id": name.removeprefix("kafka-"),
        "listeners": listener,
        "advertised.listeners": listener,
        "controller.quorum.bootstrap.servers": f"{HOST}:{ports.get('kafka-controller')}",
    }
    lines = (layout.data / "kafka" / "meta.properties").read_text().splitlines()
    cluster = next(line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id="))
    _format(java, jars, layout, name, properties, "--cluster-id", cluster)


def _format(java: Path, jars: Path, layout: Layout, name: str, properties: Mapping[str, str], *options: str) -> None:
    data, path, formatted = layout.data / name, _properties_path(layout, name), layout.data / f"{name}.formatted"
    _write_properties(path, properties, data)
    if formatted.exists():
        return
    shutil.rmtree(data, ignore_errors=True)
    command = [str(java), *JAVA_OPTIONS, "-cp", f"{jars}/*", "kafka.tools.StorageTool", "format", *options]
    environment = {**os.environ, **UTF8_LOCALE}
    # A formatter outlives a start that is killed: each writes into a folder of its own.
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=layout.data, ignore_cleanup_errors=True) as own:
        fresh, config = Path(own) / name, Path(own) / path.name
        _write_properties(config, properties, fresh)
        done = subprocess.run([*command, "--config", str(config)], capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
            raise StartFailed(f"Kafka's storage in {data} could not be formatted:\n{said}")
        fresh.rename(data)
    formatted.touch()


def _write_properties(path: Path, properties: Mapping[str, str], data: Path) -> None:
    own = {**properties, "log.dirs": str(data)}
    write_atomically(path, PROPERTIES + "".join(f"{key}={_escaped(value)}\n" for key, value in own.items()))


def check(bootstrap_servers: str) -> None:
    """Raises CommandFailed where no Kafka answers there."""
    if why := probes.kafka(bootstrap_servers)():
        raise CommandFailed(
            f"no Kafka answers at {bootstrap_servers} ({why}): start it, or correct or unset KAFKA_BOOTSTRAP_SERVERS"
        )


def create_topic(bootstrap_servers: str, topic: str, partitions: int = 1, nodes: Sequence[int] = ()) -> None:
    """Create a topic unless it exists. `nodes` has the broker of each partition. Raises CommandFailed."""
    client = probes.admin(bootstrap_servers)  # held until the answer is there: dropping it ends the request
    where = {"replica_assignment": [[node] for node in nodes]} if nodes else {"replication_factor": -1}
    future = client.create_topics([NewTopic(topic, num_partitions=len(nodes) or partitions, **where)])[topic]
    try:
        future.result(timeout=30)
    except KafkaException as failed:
        if failed.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            said = failed.args[0].str()
            raise CommandFailed(f"Kafka at {bootstrap_servers} did not create {topic}: {said}") from failed


def send(bootstrap_servers: str, topic: str, key: str, value: str) -> tuple[int, int]:
    """Produce one record of UTF-8 text. Returns its partition and offset. Raises CommandFailed."""
    settings: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, "log_level": 0, "linger.ms": 0}
    producer = Producer({**settings, "message.max.bytes": MAX_BATCH_BYTES, "message.timeout.ms": SEND_MS})
    told: list[tuple[KafkaError | None, Message]] = []
    try:
        producer.produce(topic, value, key, on_delivery=lambda error, record: told.append((error, record)))
    except (KafkaException, BufferError) as failed:
        raise CommandFailed(f"the record was not sent: {failed}") from failed
    producer.flush()
    error, record = told[0]
    partition, offset = record.partition(), record.offset()
    if error is not None or partition is None or offset is None:
        raise CommandFailed(f"Kafka at {bootstrap_servers} did not take the record: {error}")
    return partition, offset


def refuse_commits(bootstrap_servers: str, refused: bool = True) -> None:
    """Make the coordinator refuse every commit, by a limit that all are larger than, or not. Raises CommandFailed."""
    client = probes.admin(bootstrap_servers)
    operation = AlterConfigOpType.SET if refused else AlterConfigOpType.DELETE
    entry = ConfigEntry("max.message.bytes", "10", incremental_operation=operation)
    topic = ConfigResource(ConfigResource.Type.TOPIC, "__consumer_offsets", incremental_configs=[entry])
    try:
        client.incremental_alter_configs([topic])[topic].result(timeout=10)
    except (KafkaException, TimeoutError) as failed:
        raise CommandFailed(f"Kafka at {bootstrap_servers} was not configured: {failed!r}") from failed


@contextmanager
def commits_refused(bootstrap_servers: str) -> Iterator[None]:
    """The coordinator refuses every commit until the block is left. Raises CommandFailed."""
    refuse_commits(bootstrap_servers)
    try:
        yield
    finally:
        refuse_commits(bootstrap_servers, False)


def delete_topic(bootstrap_servers: str, topic: str) -> None:
    """Delete a topic, if it exists. Raises CommandFailed."""
    client = probes.admin(bootstrap_servers)
    try:
        client.delete_topics([topic])[topic].result(timeout=30)
    except KafkaException as failed:
        if failed.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            said = failed.args[0].str()
            raise CommandFailed(f"Kafka at {bootstrap_servers} did not delete {topic}: {said}") from failed


def _escaped(value: str) -> str:
    """A value as java.util.Properties reads it: ISO 8859-1, with all other characters as escaped UTF-16 units."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = [int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)]
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)


def _properties_path(layout: Layout, name: str) -> Path:
    return layout.etc / f"{name}.properties"
