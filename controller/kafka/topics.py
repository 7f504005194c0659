"""Questions to the brokers about one topic, and about a consumer group as far as it reads that topic."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import confluent_kafka as ck
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from controller.api import names
from controller.kafka.admin import LEADERLESS, AdminClient, explain
from controller.kafka.config import REQUEST_SECONDS, KafkaError


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is now. A topic that was deleted and made again under its name has another id."""

    name: str
    id: str
    #: How many it has.
    partitions: int


@dataclass(frozen=True, slots=True)
class Watermarks:
    """The first offset that a partition still has, and the offset that its next record will have."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A consumer group as its coordinator sees it."""

    #: In Kafka's words: STABLE, EMPTY, PREPARING_REBALANCING …
    state: str
    #: The members have their partitions; else a rebalance is under way.
    stable: bool
    #: The members' `group.instance.id`, or `client.id` where they have none.
    members: Sequence[str]
    #: The member that each partition of the topic is assigned to; partitions that nobody has are left out.
    owners: Mapping[int, str]


class TopicLookup:
    """Questions to the brokers about one topic. Each method raises KafkaError."""

    def __init__(self, admin: AdminClient, topic: str) -> None:
        self._admin = admin
        self._topic = topic

    async def describe(self) -> Topic:
        """The topic as it is now. Raises KafkaError(TopicMissing) where there is none."""
        asked = ck.TopicCollection([self._topic])
        found = await self._admin.ask(
            lambda client: client.describe_topics(asked, request_timeout=REQUEST_SECONDS), self._topic
        )
        description = found[self._topic]
        uuid = description.topic_id
        topic_id = names.topic_id_text(uuid.get_most_significant_bits(), uuid.get_least_significant_bits())
        return Topic(self._topic, topic_id, len(description.partitions))

    async def watermarks(self, partitions: Iterable[int]) -> dict[int, Watermarks]:
        """The watermarks of those partitions that answer; one without a leader does not."""
        wanted = list(partitions)
        low, high = await asyncio.gather(
            self._offsets(wanted, OffsetSpec.earliest()),  # type: ignore[no-untyped-call]
            self._offsets(wanted, OffsetSpec.latest()),  # type: ignore[no-untyped-call]
        )
        return {partition: Watermarks(low[partition], high[partition]) for partition in low.keys() & high.keys()}

    async def all_watermarks(self, partitions: Iterable[int]) -> dict[int, Watermarks]:
        """The watermarks of all of them. Raises KafkaError(LeaderNotAvailable) where one does not answer."""
        wanted = list(partitions)
        found = await self.watermarks(wanted)
        if silent := without_answer(wanted, found):
            raise leaderless(self._topic, silent)
        return found

    async def last_stable_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """Where the first open transaction of a partition begins, else its end, for those partitions that answer.

        A consumer with `isolation.level: read_committed` is given no record from there on.
        """
        spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        return await self._offsets(list(partitions), spec, ck.IsolationLevel.READ_COMMITTED)

    async def committed(self, group: str, partitions: Iterable[int]) -> dict[int, int]:
        """The group's committed offsets. A partition that is left out has answered that it has none.

        Raises KafkaError(LeaderNotAvailable) where one does not answer.
        """
        wanted = list(partitions)
        request = ck.ConsumerGroupTopicPartitions(group, [ck.TopicPartition(self._topic, p) for p in wanted])
        found = await self._admin.ask(
            lambda client: client.list_consumer_group_offsets([request], request_timeout=REQUEST_SECONDS),
            self._topic,
            group,
        )
        answer = found[group].topic_partitions
        for refused in (p.error for p in answer if p.error is not None):
            raise explain(refused, self._topic, group)
        if silent := without_answer(wanted, {p.partition for p in answer}):
            raise leaderless(self._topic, silent)
        return {p.partition: p.offset for p in answer if p.offset >= 0}

    async def describe_group(self, group: str) -> GroupDescription:
        """The group as its coordinator sees it."""
        found = await self._admin.ask(
            lambda client: client.describe_consumer_groups([group], request_timeout=REQUEST_SECONDS), self._topic, group
        )
        answer = found[group]
        owners = {
            each.partition: member.group_instance_id or member.client_id
            for member in answer.members
            for each in member.assignment.topic_partitions
            if each.topic == self._topic
        }
        members = sorted(member.group_instance_id or member.client_id for member in answer.members)
        return GroupDescription(answer.state.name, answer.state == ck.ConsumerGroupState.STABLE, members, owners)

    async def _offsets(
        self,
        partitions: list[int],
        spec: OffsetSpec,
        isolation: ck.IsolationLevel = ck.IsolationLevel.READ_UNCOMMITTED,
    ) -> dict[int, int]:
        asked = {ck.TopicPartition(self._topic, partition): spec for partition in partitions}
        try:
            found = await self._admin.ask(
                lambda client: client.list_offsets(asked, isolation_level=isolation, request_timeout=REQUEST_SECONDS),
                self._topic,
            )
        except KafkaError as error:
            if error.reason != LEADERLESS:
                raise
            return {}
        # Where a leader does not answer, librdkafka reports a negative offset and no error.
        return {where.partition: each.offset for where, each in found.items() if each.offset >= 0}


def without_answer(wanted: Iterable[int], found: Container[int]) -> list[int]:
    """Partitions that were asked for and have not answered, rising."""
    return sorted(partition for partition in wanted if partition not in found)


def leaderless(topic: str, partitions: Iterable[int]) -> KafkaError:
    """The error for the stream's condition while these partitions do not answer."""
    numbers = ", ".join(map(str, partitions))
    return KafkaError(
        LEADERLESS,
        f"of topic {topic} these partitions do not answer, as without a leader: {numbers}; each is read when it does",
    )
