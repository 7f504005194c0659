"""What a stream may configure of librdkafka, and what the bridge sets itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import confluent_kafka as ck

from controller.api.update_stream import KafkaSpec
from controller.errors import ControllerError

#: Properties that a stream may set, as a number within bounds. librdkafka's own are wider: within these every stream is
#: read in time and within its memory, also beside each other, and librdkafka takes every combination of them.
NUMBERS: Mapping[str, tuple[int, int]] = {
    # Larger ones only wait for their time to be over, fetch.wait.max.ms.
    "fetch.min.bytes": (1, 1_000_000),
    # Not below message.max.bytes, whose default this is. A batch that is larger is read all the same.
    "fetch.max.bytes": (1_000_000, 8 << 20),
    "fetch.message.max.bytes": (1, 8 << 20),
    # 0 asks again at once, all the time. A partition that is assigned meanwhile waits until the request is over.
    "fetch.wait.max.ms": (10, 5_000),
    "fetch.queue.backoff.ms": (10, 5_000),
    "fetch.error.backoff.ms": (10, 5_000),
    "socket.timeout.ms": (1_000, 300_000),
    "socket.connection.setup.timeout.ms": (1_000, 300_000),
    # 0 would keep a connection for ever on which nothing is answered.
    "socket.max.fails": (1, 10),
    "socket.send.buffer.bytes": (0, 8 << 20),
    "socket.receive.buffer.bytes": (0, 8 << 20),
    "socket.blocking.max.ms": (1, 60_000),
}
#: The same, as one of these words.
WORDS: Mapping[str, tuple[str, ...]] = {
    "auto.offset.reset": ("earliest", "latest"),
    "isolation.level": ("read_committed", "read_uncommitted"),
    "security.protocol": ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
    "sasl.mechanism": ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
    "socket.keepalive.enable": ("true", "false"),
    "socket.nagle.disable": ("true", "false"),
}
#: All properties that a stream may set. Others run commands, read files, or belong to the bridge.
CONFIGURABLE = frozenset({*NUMBERS, *WORDS, "client.rack"})
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
#: librdkafka reads `0x10`, `+5` and blanks as numbers too.
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
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
    for refused in filter(None, (_refused(spec), _refused_secret(spec, secrets))):
        raise KafkaError("ConfigRefused", refused)
    config = {key: value for key, value in spec.config.items() if key != "auto.offset.reset"}
    # Without zeros in front, behind which librdkafka reads an octal number.
    config |= {name: str(int(config[name])) for name in config.keys() & NUMBERS.keys()}
    return _CLIENT_CONFIG | config | dict(secrets) | {"bootstrap.servers": spec.bootstrap_servers}


def _refused(spec: KafkaSpec) -> str:
    """What of the spec cannot be used, for people; the CRD says the same of what it is given. Empty: nothing."""
    for name, value in sorted(spec.config.items()):
        if name not in CONFIGURABLE:
            return (
                f"spec.kafka.config: {name} may not be set: only the properties listed by"
                " `kubectl explain us.spec.kafka.config` may. Remove it"
            )
        if name in NUMBERS:
            least, most = NUMBERS[name]
            if not (_NUMBER.fullmatch(value) and least <= int(value) <= most):
                return f"spec.kafka.config: {name} must be a whole number from {least} to {most}, and is {value!r}"
        # The CRD has one spelling of each; librdkafka takes any.
        if name in WORDS and value.lower() not in (word.lower() for word in WORDS[name]):
            return f"spec.kafka.config: {name} must be one of {', '.join(WORDS[name])}, and is {value!r}"
    if spec.config.get("security.protocol", "").lower().startswith("sasl_") and "sasl.mechanism" not in spec.config:
        return f"spec.kafka.config: sasl.mechanism is missing, one of {', '.join(WORDS['sasl.mechanism'])}"
    for broker in spec.bootstrap_servers.split(","):
        port = broker.rpartition(":")[2]
        if not (_NUMBER.fullmatch(port) and 0 < int(port) < 65536):  # librdkafka would take another one
            return f"spec.kafka.bootstrapServers: {broker!r} is not HOST:PORT with a port from 1 to 65535"
    return ""


def _refused_secret(spec: KafkaSpec, secrets: Mapping[str, str]) -> str:
    for name in sorted(secrets.keys() - SECRETS):
        return f"Secret {spec.secret_name}: {name} is not one of {', '.join(sorted(SECRETS))}. Remove it"
    return ""


def made(kind: Callable[..., Any], config: Mapping[str, Any]) -> Any:
    """A client of librdkafka. Raises KafkaError(ConfigRefused)."""
    try:
        return kind(dict(config))
    except (ck.KafkaException, TypeError, ValueError) as error:
        text = error.args[0].str() if isinstance(error, ck.KafkaException) else str(error)
        raise KafkaError("ConfigRefused", f"spec.kafka.config or its Secret: {text}") from error
