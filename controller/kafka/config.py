"""Properties of librdkafka: those that a stream may set, within bounds, and those that the bridge sets itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import confluent_kafka as ck

from controller.api.update_stream import KafkaSpec
from controller.errors import ControllerError

#: Numeric properties that a stream may set, with the least and the largest value. librdkafka's own bounds are wider.
#: Within these every stream is read in time and within its memory, also beside others, and librdkafka accepts every
#: combination.
NUMERIC_PROPERTIES: Mapping[str, tuple[int, int]] = {
    # With a larger one every request would only wait for fetch.wait.max.ms to pass.
    "fetch.min.bytes": (1, 1_000_000),
    # The least is the default of message.max.bytes. Kafka sends a batch that is larger all the same.
    "fetch.max.bytes": (1_000_000, 8 << 20),
    "fetch.message.max.bytes": (1, 8 << 20),
    # With 0 an idle consumer would ask without a pause. A partition that is assigned waits for the request to end.
    "fetch.wait.max.ms": (10, 5_000),
    "fetch.queue.backoff.ms": (10, 5_000),
    "fetch.error.backoff.ms": (10, 5_000),
    "socket.timeout.ms": (1_000, 300_000),
    "socket.connection.setup.timeout.ms": (1_000, 300_000),
    # With 0 a connection on which nothing is answered would be kept for ever.
    "socket.max.fails": (1, 10),
    "socket.send.buffer.bytes": (0, 8 << 20),
    "socket.receive.buffer.bytes": (0, 8 << 20),
    "socket.blocking.max.ms": (1, 60_000),
}
#: Properties that a stream may set to one of these values.
ENUM_PROPERTIES: Mapping[str, tuple[str, ...]] = {
    "auto.offset.reset": ("earliest", "latest"),
    "isolation.level": ("read_committed", "read_uncommitted"),
    "security.protocol": ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
    "sasl.mechanism": ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
    "socket.keepalive.enable": ("true", "false"),
    "socket.nagle.disable": ("true", "false"),
}
#: All properties that a stream may set. The others run commands, read files, or are set by the bridge.
STREAM_PROPERTIES = frozenset({*NUMERIC_PROPERTIES, *ENUM_PROPERTIES, "client.rack"})
#: Properties that the stream's Secret may set.
SECRET_PROPERTIES = frozenset(
    {
        "sasl.username",
        "sasl.password",
        "ssl.ca.pem",
        "ssl.certificate.pem",
        "ssl.key.pem",
        "ssl.key.password",
    }
)

#: Seconds without a heartbeat after which the coordinator assigns a member's partitions to others.
SESSION_SECONDS = 10.0
HEARTBEAT_SECONDS = 3.0
#: Seconds after the request was sent for which an accepted commit proves that the partition is still this member's:
#: docs/decisions/0041-assignment-deadline.md.
HOLD_SECONDS = SESSION_SECONDS - HEARTBEAT_SECONDS
#: Time-out of a request to the brokers.
REQUEST_SECONDS = 5.0

#: Bytes that librdkafka fetches ahead for a `GroupMember`, and for a `Fetcher`.
MAX_QUEUED = 4 << 20
MAX_QUEUED_BY_FETCHER = 2 << 20

BRIDGE_CONFIG: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    # The bridge decides where to begin: librdkafka reports an offset that is out of range, and does not skip it.
    "auto.offset.reset": "error",
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": int(SESSION_SECONDS * 1000),
    "heartbeat.interval.ms": int(HEARTBEAT_SECONDS * 1000),
    "topic.metadata.refresh.interval.ms": 5000,
}
#: Digits alone: librdkafka would also take `0x10`, `+5` and blanks for numbers.
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_CLIENT_CONFIG: dict[str, Any] = {
    "reconnect.backoff.max.ms": 2000,
    # A broker that goes away is reported by a condition of the stream, not by a line in the log for each attempt.
    "log.connection.close": False,
    "log_level": 2,
}
FETCH_DEFAULTS: dict[str, Any] = {
    # A broker answers as soon as there is a record. An idle stream sends a request this often.
    "fetch.wait.max.ms": 500,
    "fetch.max.bytes": 8 << 20,
    "fetch.message.max.bytes": 1 << 20,
}


class KafkaError(ControllerError):
    """Kafka cannot do something for now. `reason` and message become those of the stream's condition Consuming."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def queue_kbytes(most: int, share: float) -> int:
    """KiB that librdkafka may fetch ahead, of `most` bytes with a share from 0 to 1. A single record may be larger."""
    return max(int(most * share) >> 10, 64)


def client_config(spec: KafkaSpec, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Properties of librdkafka for a stream, with those of its Secret.

    Raises KafkaError(ConfigRefused), which names the property that is not allowed.
    """
    for refused in filter(None, (_refused(spec), _refused_secret(spec, secrets))):
        raise KafkaError("ConfigRefused", refused)
    config = {key: value for key, value in spec.config.items() if key != "auto.offset.reset"}
    # Without leading zeros, as librdkafka would read an octal number.
    config |= {name: str(int(config[name])) for name in config.keys() & NUMERIC_PROPERTIES.keys()}
    return _CLIENT_CONFIG | config | dict(secrets) | {"bootstrap.servers": spec.bootstrap_servers}


def _refused(spec: KafkaSpec) -> str:
    """The fault in the spec, for people; empty: none. The CRD refuses the same when an object is applied."""
    for name, value in sorted(spec.config.items()):
        if name not in STREAM_PROPERTIES:
            return (
                f"spec.kafka.config: {name} may not be set: only the properties listed by"
                " `kubectl explain us.spec.kafka.config` may. Remove it"
            )
        if name in NUMERIC_PROPERTIES:
            least, most = NUMERIC_PROPERTIES[name]
            if not (_NUMBER.fullmatch(value) and least <= int(value) <= most):
                return f"spec.kafka.config: {name} must be a whole number from {least} to {most}, and is {value!r}"
        # librdkafka ignores case; the CRD has one spelling of each.
        if name in ENUM_PROPERTIES and value.lower() not in (word.lower() for word in ENUM_PROPERTIES[name]):
            return f"spec.kafka.config: {name} must be one of {', '.join(ENUM_PROPERTIES[name])}, and is {value!r}"
    if spec.config.get("security.protocol", "").lower().startswith("sasl_") and "sasl.mechanism" not in spec.config:
        return f"spec.kafka.config: sasl.mechanism is missing, one of {', '.join(ENUM_PROPERTIES['sasl.mechanism'])}"
    for broker in spec.bootstrap_servers.split(","):
        port = broker.rpartition(":")[2]
        if not (_NUMBER.fullmatch(port) and 0 < int(port) < 65536):  # librdkafka would use another port
            return f"spec.kafka.bootstrapServers: {broker!r} is not HOST:PORT with a port from 1 to 65535"
    return ""


def _refused_secret(spec: KafkaSpec, secrets: Mapping[str, str]) -> str:
    for name in sorted(secrets.keys() - SECRET_PROPERTIES):
        return f"Secret {spec.secret_name}: {name} is not one of {', '.join(sorted(SECRET_PROPERTIES))}. Remove it"
    return ""


def create_client(kind: Callable[..., Any], config: Mapping[str, Any]) -> Any:
    """A client of librdkafka of that class. Raises KafkaError(ConfigRefused)."""
    try:
        return kind(dict(config))
    except (ck.KafkaException, TypeError, ValueError) as error:
        text = error.args[0].str() if isinstance(error, ck.KafkaException) else str(error)
        raise KafkaError("ConfigRefused", f"spec.kafka.config or its Secret: {text}") from error
