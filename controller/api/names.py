"""Every name that leaves the process: API group, labels, object names, sources, idempotency keys.

The name of a UserUpdate and the idempotency key are compatibility promises: dedup in the API server and in the
downstreams rests on them, so tests hold them to the letter.
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
#: Which of the BUCKETS the user is in. It does not depend on `spec.shards`, so that these may change.
BUCKET_LABEL = f"{GROUP}/bucket"
BUCKETS = 64
#: The steps of an update, in order.
STEPS = ("profile", "permissions", "resources")
#: On the Lease that is a process's sign of life: `bridge` or `controller`.
COMPONENT_LABEL = f"{GROUP}/component"
#: What a person asks for: `retry`, `skip`, `cancel` or `restart`, with `:token` behind it to ask again.
REQUEST_ANNOTATION = f"{GROUP}/request"
#: On an UpdateStream: the uid under which it was adopted. A copy of the object, restored or applied, has another one.
UID_ANNOTATION = f"{GROUP}/uid"
#: Keeps a UserBacklog until the bridge has let go of it: deleting one by hand loses nothing.
BACKLOG_FINALIZER = f"{GROUP}/backlog"
#: The source of updates that no Kafka record stands behind.
MANUAL_SOURCE = "manual"

_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)\Z")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_NOT_LABEL = re.compile(r"[^A-Za-z0-9]+")


def namespaced_name(namespace: str, name: str) -> str:
    """`namespace/name`: how logs, messages and `kubectl` name an object (client-go's MetaNamespaceKeyFunc)."""
    return f"{namespace}/{name}"


def topic_id_text(high: int, low: int) -> str:
    """Kafka's own text of a topic's UUID (22 characters of URL-safe base64), from its two signed 64-bit halves."""
    raw = (high & (1 << 64) - 1).to_bytes(8, "big") + (low & (1 << 64) - 1).to_bytes(8, "big")
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def topic_id_hex(topic_id: str) -> str:
    """The 32 hex digits of a topic's UUID, from Kafka's text of it."""
    return base64.urlsafe_b64decode(topic_id + "==").hex()


def record_name(stream: str, topic_id: str, partition: int, offset: int) -> str:
    """The name of the UserUpdate or RejectedEvent of one record: sorted by name is sorted by offset."""
    return f"{stream}-{topic_id_hex(topic_id)[:6]}-p{partition:05d}-{offset:019d}"


def member_suffix(namespace: str, stream: str) -> str:
    """What the names of a stream's members in its consumer group end with, behind the replica's identity."""
    return f".{namespace}.{stream}"


def backlog_name(stream: str, user: str) -> str:
    """The name of a user's UserBacklog; the user may be any text, so it is hashed."""
    return f"{stream}-{_digest(user, 20)}"


def lease_name(stream: str, shard: int = 0, shards: int = 1) -> str:
    """The Lease that the controller working on a stream, or on one of its shards, holds, in the stream's namespace.

    The dot is in no stream's name: no two streams share one, however they are divided.
    """
    return f"updatestream-{stream}" if shards == 1 else f"updatestream-{stream}.{shards}-{shard}"


def stream_of_lease(name: str) -> str:
    """The stream whose controller holds a Lease of that name; empty where it is another kind of Lease."""
    prefix, _, rest = name.partition("-")
    return rest.partition(".")[0] if prefix == "updatestream" else ""


def process_lease_name(component: str, identity: str) -> str:
    """The Lease by which others see that a process lives; an identity may be any text, a name may not."""
    if len(identity) <= 200 and _SUBDOMAIN.match(identity):
        return f"enrichment-{component}-{identity}"
    readable = _NOT_LABEL.sub("-", identity[:200]).strip("-")[:40].lower()
    return "-".join(filter(None, ("enrichment", component, readable, _digest(identity, 16))))


def is_namespace(name: str) -> bool:
    """Whether a namespace can have that name: a label of the DNS (RFC 1123)."""
    return len(name) <= 63 and bool(_DNS_LABEL.match(name))


def user_label(user: str) -> str:
    """A label value for people and selectors: the user where it is one, else a readable part and a hash of it."""
    if _LABEL_VALUE.match(user):
        return user
    readable = _NOT_LABEL.sub("-", user[:200]).strip("-")[:40]
    return "-".join(filter(None, (readable, _digest(user, 16))))


def bucket(user: str) -> int:
    """The first byte of the user's SHA-256, modulo BUCKETS: the same in every version and process."""
    return int(_digest(user, 2), 16) % BUCKETS


def source_name(topic_id: str, partition: int) -> str:
    """One (topic id, partition): sequences are comparable only within it."""
    return f"{topic_id}/{partition}"


def idempotency_key(namespace: str, name: str, step: str, run: int, uid: str | None) -> str:
    """The same for every repeat of a step, also after a crash; different for any other.

    `uid` is given for hand-made updates only: a person may delete one and apply another of the same name, while the
    bridge that makes a deleted one again means the same record.
    """
    return "/".join(filter(None, (namespace, name, uid, step, str(run))))


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
