"""What a stream may configure of librdkafka, and what the bridge sets itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import confluent_kafka as ck

from controller.errors import ControllerError
from controller.streams import KafkaSpec

#: Properties that a stream may set. Others run commands, read files, or belong to the bridge.
CONFIGURABLE = frozenset(
    {
        "auto.offset.reset",
        "isolation.level",
        "client.rack",
        "security.protocol",
        "sasl.mechanism",
        "fetch.min.bytes",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.wait.max.ms",
        "fetch.queue.backoff.ms",
        "fetch.error.backoff.ms",
        "socket.timeout.ms",
        "socket.connection.setup.timeout.ms",
        "socket.keepalive.enable",
        "socket.nagle.disable",
        "socket.max.fails",
        "socket.send.buffer.bytes",
        "socket.receive.buffer.bytes",
        "socket.blocking.max.ms",
    }
)
SECRETS = frozenset(
    {
        "sasl.username",
        "sasl.password",
        "ssl.ca.pem",
        "ssl.certificate.pem",
        "ssl.key.pem",
        "ssl.key.password",
    }
)

#: Seconds without a heartbeat after which the coordinator gives a member's partitions away.
SESSION_SECONDS = 10.0
HEARTBEAT_SECONDS = 3.0
#: An accepted commit holds the assignment for so long from its sending: docs/decisions/0041-assignment-deadline.md.
HOLD_SECONDS = SESSION_SECONDS - HEARTBEAT_SECONDS
REQUEST_SECONDS = 5.0

#: Bytes that librdkafka reads ahead for a member of the group, and for one who reads again.
MAX_QUEUED = 4 << 20
MAX_QUEUED_AGAIN = 2 << 20

BRIDGE_CONFIG: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    # Where to begin is the bridge's decision: an offset out of range is told, not jumped over.
    "auto.offset.reset": "error",
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": int(SESSION_SECONDS * 1000),
    "heartbeat.interval.ms": int(HEARTBEAT_SECONDS * 1000),
    "topic.metadata.refresh.interval.ms": 5000,
}
_CLIENT_CONFIG: dict[str, Any] = {
    "reconnect.backoff.max.ms": 2000,
    # A broker that goes away is a condition on the stream, no line for each attempt.
    "log.connection.close": False,
    "log_level": 2,
}
FETCH_DEFAULTS: dict[str, Any] = {
    # A broker answers as soon as there is a record; this is how often an idle stream asks it in vain.
    "fetch.wait.max.ms": 500,
    "fetch.max.bytes": 8 << 20,
    "fetch.message.max.bytes": 1 << 20,
    "message.max.bytes": 8 << 20,
}


class KafkaError(ControllerError):
    """What Kafka cannot do for now; `reason` is that of the stream's condition Consuming."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def queue_size(most: int, share: float) -> int:
    """KiB that librdkafka may read ahead with that share of the memory; a single record may be larger."""
    return max(int(most * share) >> 10, 64)


def client_config(spec: KafkaSpec, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Properties of librdkafka for a stream. Raises KafkaError(ConfigRefused) that names what is not allowed."""
    for name in sorted(spec.config.keys() - CONFIGURABLE):
        raise KafkaError(
            "ConfigRefused",
            f"spec.kafka.config: {name} may not be set: only the properties listed by"
            " `kubectl explain us.spec.kafka.config` may. Remove it",
        )
    for name in sorted(secrets.keys() - SECRETS):
        raise KafkaError(
            "ConfigRefused", f"Secret {spec.secret_name}: {name} is not one of {', '.join(sorted(SECRETS))}. Remove it"
        )
    config = {key: value for key, value in spec.config.items() if key != "auto.offset.reset"}
    return _CLIENT_CONFIG | config | dict(secrets) | {"bootstrap.servers": spec.bootstrap_servers}


def made(kind: Callable[..., Any], config: Mapping[str, Any]) -> Any:
    """A client of librdkafka. Raises KafkaError(ConfigRefused)."""
    try:
        return kind(dict(config))
    except (ck.KafkaException, TypeError, ValueError) as error:
        text = error.args[0].str() if isinstance(error, ck.KafkaException) else str(error)
        raise KafkaError("ConfigRefused", f"spec.kafka.config or its Secret: {text}") from error
