"""Every name that leaves the process: API group, labels, object names, sources, idempotency keys.

The name of a UserUpdate and the idempotency key are compatibility promises: the API server and the downstreams
recognise a repeat by them. Tests compare them letter by letter.
"""

from __future__ import annotations

import base64
import hashlib
import re

GROUP = "enrichment.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

STREAM_LABEL = f"{GROUP}/stream"
USER_LABEL = f"{GROUP}/user"
#: The user's bucket, from 0 to BUCKETS - 1. It does not depend on `spec.shards`, which may therefore change.
BUCKET_LABEL = f"{GROUP}/bucket"
BUCKETS = 64
#: The steps of an update, in order.
STEPS = ("profile", "permissions", "resources")
#: On a process's own Lease (`process_lease`): `bridge` or `controller`.
COMPONENT_LABEL = f"{GROUP}/component"
#: A person's request: `retry`, `skip`, `cancel` or `restart`. With `:token` behind it the same request is made again.
REQUEST_ANNOTATION = f"{GROUP}/request"
#: On an UpdateStream: the uid that the object had when it was adopted. A restored or re-applied copy has another uid.
UID_ANNOTATION = f"{GROUP}/uid"
#: Keeps a deleted UserBacklog until the bridge releases it, so that deleting one by hand loses nothing.
BACKLOG_FINALIZER = f"{GROUP}/backlog"
#: The source of updates that a person applied, without a Kafka record.
MANUAL_SOURCE = "manual"

_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)\Z")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_NOT_LABEL = re.compile(r"[^A-Za-z0-9]+")


def namespaced_name(namespace: str, name: str) -> str:
    """`namespace/name`: how logs, messages and `kubectl` name an object (client-go's MetaNamespaceKeyFunc)."""
    return f"{namespace}/{name}"


def topic_id_text(high: int, low: int) -> str:
    """Kafka's text of a topic's UUID: 22 characters of URL-safe base64, from its two signed 64-bit halves."""
    raw = (high & (1 << 64) - 1).to_bytes(8, "big") + (low & (1 << 64) - 1).to_bytes(8, "big")
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def topic_id_hex(topic_id: str) -> str:
    """The 32 hex digits of a topic's UUID, from Kafka's text of it."""
    return base64.urlsafe_b64decode(topic_id + "==").hex()


def record_name(stream: str, topic_id: str, partition: int, offset: int) -> str:
    """The name of one record's UserUpdate or RejectedEvent. Within a partition, names sort as offsets do."""
    return f"{stream}-{topic_id_hex(topic_id)[:6]}-p{partition:05d}-{offset:019d}"


def member_suffix(namespace: str, stream: str) -> str:
    """How the client ids of a stream's members of its consumer group end, after the replica's identity."""
    return f".{namespace}.{stream}"


def backlog_name(stream: str, user: str) -> str:
    """The name of a user's UserBacklog. A user may be any text, so the name holds a hash of it."""
    return f"{stream}-{_digest(user, 20)}"


def lease_name(stream: str, shard: int = 0, shards: int = 1) -> str:
    """The Lease, in the stream's namespace, of the controller that works on a stream or on one of its shards.

    A stream's name has no dot, so no two streams share a Lease, whatever their numbers of shards.
    """
    return f"updatestream-{stream}" if shards == 1 else f"updatestream-{stream}.{shards}-{shard}"


def stream_of_lease(name: str) -> str:
    """The stream that a Lease of that name belongs to; empty for other Leases."""
    prefix, _, rest = name.partition("-")
    return rest.partition(".")[0] if prefix == "updatestream" else ""


def process_lease_name(component: str, identity: str) -> str:
    """The Lease that shows that a process is alive. An identity may be any text; where it is no name, it is hashed."""
    if len(identity) <= 200 and _SUBDOMAIN.match(identity):
        return f"enrichment-{component}-{identity}"
    readable = _NOT_LABEL.sub("-", identity[:200]).strip("-")[:40].lower()
    return "-".join(filter(None, ("enrichment", component, readable, _digest(identity, 16))))


def is_namespace(name: str) -> bool:
    """Whether a namespace can have that name: a DNS label (RFC 1123)."""
    return len(name) <= 63 and bool(_DNS_LABEL.match(name))


def user_label(user: str) -> str:
    """A label value for people and selectors: the user itself where it is valid, else a readable part and a hash."""
    if _LABEL_VALUE.match(user):
        return user
    readable = _NOT_LABEL.sub("-", user[:200]).strip("-")[:40]
    return "-".join(filter(None, (readable, _digest(user, 16))))


def bucket(user: str) -> int:
    """The user's bucket: the first byte of its SHA-256, modulo BUCKETS. Every version and process computes the same."""
    return int(_digest(user, 2), 16) % BUCKETS


def source_name(topic_id: str, partition: int) -> str:
    """One partition of one topic id. Sequences can be compared only within one source."""
    return f"{topic_id}/{partition}"


def idempotency_key(namespace: str, name: str, step: str, run: int, uid: str | None) -> str:
    """The key that every repeat of a step has, also after a crash, and no other call has.

    `uid` is given only for updates made by hand. A person may delete one and apply another of the same name; the bridge
    that creates a deleted update again does so for the same record.
    """
    return "/".join(filter(None, (namespace, name, uid, step, str(run))))


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
