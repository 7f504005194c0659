"""Kafka: the properties that a stream may set, the topic as the brokers see it, one member of the consumer group.

librdkafka blocks, so each of its consumers has a thread of its own. `group_member` describes the thread boundary:
the event loop asks by methods, the thread answers by a `Notification`. Positions, offsets to begin at and retries are
the bridge's.
"""

from controller.kafka.admin import LEADERLESS, AdminClient, AdminClients
from controller.kafka.config import HOLD_SECONDS, KafkaError, client_config
from controller.kafka.fetcher import Fetcher, FetchResult
from controller.kafka.group_member import RELEASE_SECONDS, GroupMember
from controller.kafka.messages import record_cost
from controller.kafka.notifications import (
    Assigned,
    CommitRefused,
    Committed,
    Fetched,
    MemberFailed,
    Notification,
    OffsetOutOfRange,
    PartitionEnd,
    RequestRefused,
    Revoked,
)
from controller.kafka.topics import GroupDescription, Topic, TopicLookup, Watermarks, leaderless

__all__ = [
    "HOLD_SECONDS",
    "LEADERLESS",
    "RELEASE_SECONDS",
    "AdminClient",
    "AdminClients",
    "Assigned",
    "CommitRefused",
    "Committed",
    "FetchResult",
    "Fetched",
    "Fetcher",
    "GroupDescription",
    "GroupMember",
    "KafkaError",
    "MemberFailed",
    "Notification",
    "OffsetOutOfRange",
    "PartitionEnd",
    "RequestRefused",
    "Revoked",
    "Topic",
    "TopicLookup",
    "Watermarks",
    "client_config",
    "leaderless",
    "record_cost",
]
