"""Kafka: what a stream may configure, the topic as the brokers see it, one member of the consumer group.

librdkafka's consumer blocks, so it lives on a thread of its own where every call to it is made; what it has to tell
comes to the event loop as `Event` values, in order, by batches. Offsets, positions and retries are the bridge's.
"""

from controller.kafka.admin import LEADERLESS, Admin, Admins
from controller.kafka.config import HOLD_SECONDS, KafkaError, client_config
from controller.kafka.consumer import RELEASE_SECONDS, GroupMember
from controller.kafka.fetcher import Reread, Rereader
from controller.kafka.notifications import (
    Assigned,
    CommitRefused,
    Committed,
    Event,
    Failed,
    Fetched,
    OutOfRange,
    Reached,
    Refused,
    Revoked,
    record_cost,
)
from controller.kafka.topics import (
    Group,
    Range,
    Topic,
    TopicLookup,
    not_taken_in,
    open_transaction,
    shared,
    unanswered,
    unassigned,
)

__all__ = [
    "HOLD_SECONDS",
    "LEADERLESS",
    "RELEASE_SECONDS",
    "Admin",
    "Admins",
    "Assigned",
    "CommitRefused",
    "Committed",
    "Event",
    "Failed",
    "Fetched",
    "Group",
    "GroupMember",
    "KafkaError",
    "OutOfRange",
    "Range",
    "Reached",
    "Refused",
    "Reread",
    "Rereader",
    "Revoked",
    "Topic",
    "TopicLookup",
    "client_config",
    "not_taken_in",
    "open_transaction",
    "record_cost",
    "shared",
    "unanswered",
    "unassigned",
]
