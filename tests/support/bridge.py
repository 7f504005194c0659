"""The parts of the bridge, each by itself, with what they share."""

from __future__ import annotations

from typing import Any, cast

from controller.api.update_stream import UpdateStream
from controller.bridge.context import BridgeContext, ConsumerContext
from controller.bridge.metrics import CountedRecords
from controller.clients.cluster import Cluster
from controller.kafka import Topic
from tests.support.builders import make_stream

NOTHING = cast(Any, None)
TOPIC = Topic("events", "id", 2)


def make_consumer_context(
    cluster: Cluster = NOTHING, stream: UpdateStream | None = None, topic: Topic = TOPIC
) -> ConsumerContext:
    """Without Kafka; without `cluster` also without an API server."""
    bridge = BridgeContext(cluster, "bridge-a", NOTHING, NOTHING, NOTHING, NOTHING)
    return ConsumerContext(
        bridge, stream or make_stream(), NOTHING, NOTHING, {}, topic, "bridge-a.default.user-updates", CountedRecords()
    )
