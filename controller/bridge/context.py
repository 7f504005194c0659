"""The state that all streams of a bridge share, and the state that all objects share which consume one topic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from controller.api.update_stream import UpdateStream
from controller.bridge.metrics import CountedRecords
from controller.bridge.object_counts import ObjectCounts, StreamCounts
from controller.bridge.partitions import Partition, Partitions
from controller.bridge.pending import ReadAhead
from controller.bridge.write_limiter import WriteLimiter
from controller.clients.cluster import Cluster
from controller.clients.event_recorder import EventRecorder
from controller.clients.process_lease import ProcessLease
from controller.clients.stream_status import StreamStatus
from controller.kafka import AdminClients, KafkaError, Topic, TopicLookup

#: Up to so many streams may use 32 MiB of memory each. More streams share as much as these have, in equal parts.
FULL_SHARES = 3
#: The topic counts as missing after so many answers in a row: brokers learn of a new topic one after the other.
MISSING_TIMES = 2
#: Seconds with the same id after which a topic is certain: brokers may describe a deleted topic for some seconds.
CERTAIN_SECONDS = 60.0


class TopicChanged(Exception):
    """The topic was deleted or made again: this consumer ends, and another one begins."""


@dataclass(slots=True)
class BridgeContext:
    """The state that all streams of this process share."""

    cluster: Cluster
    #: Name of this process among the replicas of the bridge.
    identity: str
    process_lease: ProcessLease
    recorder: EventRecorder
    #: UserBacklogs and RejectedEvents in the API server, those of other replicas too.
    backlogs: ObjectCounts
    rejected: ObjectCounts
    admins: AdminClients = field(default_factory=AdminClients)
    #: Streams that this process consumes at the moment.
    streams: int = 0

    @property
    def memory_share(self) -> float:
        """The part of the memory of one stream that each may use, from 0 to 1."""
        return min(1.0, FULL_SHARES / max(self.streams, 1))

    def counts(self, stream: UpdateStream) -> StreamCounts:
        key = stream.namespace, stream.name
        return StreamCounts(overflowing=self.backlogs.count(key), rejected=self.rejected.count(key))


@dataclass(slots=True)
class ConsumerContext:
    """The state of one consumer of one topic, as one member of the stream's group."""

    bridge: BridgeContext
    #: With the spec as it is now; `topic` and `groupId` are those that the consumer began with.
    stream: UpdateStream
    status: StreamStatus
    lookup: TopicLookup
    #: Properties of librdkafka.
    config: dict[str, Any]
    #: As it was when the consumer began. More partitions may have come since: `partition_count`.
    topic: Topic
    #: Name of this replica within the stream's group.
    instance: str
    #: The stream's next consumer gets the same one.
    counted: CountedRecords
    partitions: Partitions = field(default_factory=Partitions)
    #: Limiters of writes, one for each kind of object that is written.
    limiters: list[WriteLimiter] = field(default_factory=list)
    read_ahead: ReadAhead = field(default_factory=ReadAhead)
    #: Partitions that the topic has now.
    partition_count: int = field(init=False)
    #: Whether this replica has all partitions of the topic.
    alone: bool = True
    #: Why the topic cannot be described for now.
    topic_error: KafkaError | None = None
    #: Why no partition can be begun; None when one was begun.
    start_error: KafkaError | None = None
    #: Too many updates were created above a position: further records wait in Kafka.
    position_held: bool = False
    #: Why some partitions are not read while others are. The key is what has found it, and removes it.
    partition_errors: dict[object, KafkaError] = field(default_factory=dict)
    #: When the topic was described first and last, by the monotonic clock.
    described_first: float = field(default_factory=time.monotonic)
    described_last: float = field(default_factory=time.monotonic)
    #: Times in a row that the topic was missing.
    _missing: int = 0
    _failure: BaseException | None = None
    _failed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.partition_count = self.topic.partitions

    @property
    def cluster(self) -> Cluster:
        return self.bridge.cluster

    @property
    def recorder(self) -> EventRecorder:
        return self.bridge.recorder

    @property
    def group(self) -> str:
        """The consumer group."""
        return self.stream.kafka.group_id

    @property
    def memory_share(self) -> float:
        return self.bridge.memory_share

    @property
    def counts(self) -> StreamCounts:
        return self.bridge.counts(self.stream)

    @property
    def stream_labels(self) -> tuple[str, str]:
        """The stream in metrics: namespace and name."""
        return self.stream.namespace, self.stream.name

    @property
    def topic_is_certain(self) -> bool:
        """The topic has had its id for so long that a broker which reports this id cannot be out of date."""
        return self.described_last - self.described_first >= CERTAIN_SECONDS

    @property
    def held(self) -> list[Partition]:
        """The partitions of this replica, without those that the topic has no more.

        A static member keeps these when a topic is made again with fewer partitions.
        """
        return [partition for partition in self.partitions if partition.number < self.partition_count]

    async def verify_topic(self) -> None:
        """Make sure that the topic is still the same: one that was made again has other records at the same offsets.

        Raises TopicChanged when it is another one or stays missing, KafkaError when that is not known.
        """
        try:
            topic = await self.lookup.describe()
        except KafkaError as error:
            self._missing = self._missing + 1 if error.reason == "TopicMissing" else 0
            if self._missing >= MISSING_TIMES:
                raise TopicChanged(str(error)) from error
            raise
        if topic.id != self.topic.id:
            raise TopicChanged(f"topic {topic.name} was made again")
        self._missing = 0
        self.described_last = time.monotonic()
        self.topic_error = None
        if topic.partitions != self.partition_count:
            self.partition_count = topic.partitions
            self.count_replicas()

    def count_replicas(self) -> None:
        """Partitions were assigned or revoked, or the topic has more."""
        self.alone = len(self.held) == self.partition_count

    def write_limiter(self, parallel: int = 1) -> WriteLimiter:
        """A new limiter of `parallel` writes at a time, among `limiters`."""
        self.limiters.append(limiter := WriteLimiter(parallel))
        return limiter

    def fail(self, error: BaseException) -> None:
        """End the consumer with this error; the first one counts."""
        if self._failure is None:
            self._failure = error
            self._failed.set()

    def start(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        """Run it as one of these tasks, until it ends. An error of it ends the consumer."""

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self.fail(error)

        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(ended)

    async def failed(self) -> None:
        """Wait for `fail`, and raise its error."""
        await self._failed.wait()
        assert self._failure is not None
        raise self._failure
