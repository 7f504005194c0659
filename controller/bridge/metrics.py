"""The metrics of the bridge, by stream; never by user."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from controller.api.update_stream import UpdateStream
from controller.clients.stream_status import REFUSED

_STREAM = ("namespace", "stream")

RECORDS = Counter(
    "enrichment_bridge_records", "Records from Kafka that this process has received for the first time", _STREAM
)
CREATES = Counter("enrichment_bridge_creates", "Creates of UserUpdates, by outcome", (*_STREAM, "outcome"))
CREATE_SECONDS = Histogram(
    "enrichment_bridge_create_seconds",
    "Time from a free slot to the stored UserUpdate",
    _STREAM,
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)
REJECTED = Counter(
    "enrichment_bridge_rejected", "Records that RejectedEvents were written for, by reason", (*_STREAM, "reason")
)
LAG = Gauge(
    "enrichment_bridge_lag_records", "Records at or above the position, over the partitions of this replica", _STREAM
)
SLOTS = Gauge("enrichment_bridge_slots_taken", "Unfinished UserUpdates of the stream", _STREAM)
READ_AHEAD = Gauge("enrichment_bridge_read_ahead_bytes", "Memory of the records that wait for a slot", _STREAM)
WAITING_USERS = Gauge("enrichment_bridge_waiting_users", "Users with records in memory that wait for a slot", _STREAM)
BACKLOG_USERS = Gauge(
    "enrichment_bridge_backlog_users", "Users with a UserBacklog that this replica works off", _STREAM
)
BACKLOG_RECORDS = Gauge("enrichment_bridge_backlog_records", "Records in these UserBacklogs", _STREAM)
BACKLOG_BYTES = Counter("enrichment_bridge_backlog_written_bytes", "Bytes of UserBacklogs written", _STREAM)


class CountedRecords:
    """Which records of a stream this process has counted, so that it counts none twice that it reads again."""

    def __init__(self) -> None:
        #: By partition: the topic's id, and one above the highest offset that was counted.
        self._next: dict[int, tuple[str, int]] = {}

    def is_new(self, topic_id: str, partition: int, offset: int) -> bool:
        """Whether the record is counted for the first time; offsets must rise."""
        known, after = self._next.get(partition, (topic_id, 0))
        if known == topic_id and offset < after:
            return False
        self._next[partition] = topic_id, offset + 1
        return True


def rejected(stream: UpdateStream, reason: str, count: int) -> None:
    REJECTED.labels(stream.namespace, stream.name, reason).inc(count)


def forget(namespace: str, stream: str) -> None:
    """Remove the series of a deleted stream, or they would grow with the number of streams that ever were."""
    counted = (RECORDS, CREATES, CREATE_SECONDS, REJECTED, BACKLOG_BYTES, REFUSED)
    for metric in (*counted, LAG, SLOTS, READ_AHEAD, WAITING_USERS, BACKLOG_USERS, BACKLOG_RECORDS):
        metric.remove_by_labels({"namespace": namespace, "stream": stream})
