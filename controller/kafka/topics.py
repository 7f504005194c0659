"""Questions to the brokers about one topic."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import confluent_kafka as ck
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from controller.api import names
from controller.kafka.admin import LEADERLESS, Admin, explained
from controller.kafka.config import REQUEST_SECONDS, KafkaError


@dataclass(frozen=True, slots=True)
class Topic:
    """The topic of a name as it is now; made again it has another id."""

    name: str
    id: str
    partitions: int


@dataclass(frozen=True, slots=True)
class Range:
    """First offset that is still there, and the offset of the next record to come."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group, as far as one topic goes."""

    #: In Kafka's words: STABLE, EMPTY, PREPARING_REBALANCING …
    state: str
    #: Its members have their partitions; else these are given anew.
    stable: bool
    #: Names of its members: instance id, or client id.
    members: Sequence[str]
    #: Partitions of the topic that a member has, and its name.
    holders: Mapping[int, str]


class TopicLookup:
    """Questions to the brokers about one topic. Each raises KafkaError."""

    def __init__(self, admin: Admin, topic: str) -> None:
        self._admin = admin
        self._topic = topic

    async def describe(self) -> Topic:
        asked = ck.TopicCollection([self._topic])
        found = await self._admin.ask(
            lambda client: client.describe_topics(asked, request_timeout=REQUEST_SECONDS), self._topic
        )
        description = found[self._topic]
        uuid = description.topic_id
        topic_id = names.topic_id_text(uuid.get_most_significant_bits(), uuid.get_least_significant_bits())
        return Topic(self._topic, topic_id, len(description.partitions))

    async def ranges(self, partitions: Iterable[int]) -> dict[int, Range]:
        """Of the partitions that answer; one without a leader does not."""
        wanted = list(partitions)
        low, high = await asyncio.gather(
            self._offsets(wanted, OffsetSpec.earliest()),  # type: ignore[no-untyped-call]
            self._offsets(wanted, OffsetSpec.latest()),  # type: ignore[no-untyped-call]
        )
        return {partition: Range(low[partition], high[partition]) for partition in low.keys() & high.keys()}

    async def all_ranges(self, partitions: Iterable[int]) -> dict[int, Range]:
        """Of all of them. Raises KafkaError(LeaderNotAvailable) where one does not answer."""
        wanted = list(partitions)
        found = await self.ranges(wanted)
        if silent := without_answer(wanted, found):
            raise unanswered(self._topic, silent)
        return found

    async def stable_ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """Of the partitions that answer, up to where no transaction is open: read_committed reads no further."""
        spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        return await self._offsets(list(partitions), spec, ck.IsolationLevel.READ_COMMITTED)

    async def committed(self, group: str, partitions: Iterable[int]) -> dict[int, int]:
        """The group's commits; partitions without one are left out, each has answered so."""
        wanted = list(partitions)
        request = ck.ConsumerGroupTopicPartitions(group, [ck.TopicPartition(self._topic, p) for p in wanted])
        found = await self._admin.ask(
            lambda client: client.list_consumer_group_offsets([request], request_timeout=REQUEST_SECONDS),
            self._topic,
            group,
        )
        answer = found[group].topic_partitions
        for refused in (p.error for p in answer if p.error is not None):
            raise explained(refused, self._topic, group)
        if silent := without_answer(wanted, {p.partition for p in answer}):
            raise unanswered(self._topic, silent)
        return {p.partition: p.offset for p in answer if p.offset >= 0}

    async def group(self, group: str) -> Group:
        """The group as its coordinator sees it."""
        found = await self._admin.ask(
            lambda client: client.describe_consumer_groups([group], request_timeout=REQUEST_SECONDS), self._topic, group
        )
        answer = found[group]
        holders = {
            each.partition: member.group_instance_id or member.client_id
            for member in answer.members
            for each in member.assignment.topic_partitions
            if each.topic == self._topic
        }
        members = sorted(member.group_instance_id or member.client_id for member in answer.members)
        return Group(answer.state.name, answer.state == ck.ConsumerGroupState.STABLE, members, holders)

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
        # librdkafka reports a leader that does not answer by no error, but by a negative offset.
        return {where.partition: each.offset for where, each in found.items() if each.offset >= 0}


def without_answer(wanted: Iterable[int], found: Container[int]) -> list[int]:
    """Partitions that were asked for and have no answer, rising."""
    return sorted(partition for partition in wanted if partition not in found)


def unassigned(group: str, topic: str, partitions: Iterable[int]) -> KafkaError:
    """What the stream's condition says while no member of the group has these."""
    numbers = ", ".join(map(str, partitions))
    return KafkaError(
        "PartitionsUnassigned",
        f"of topic {topic} no member of group {group} has these partitions: {numbers};"
        " the bridge makes the group rebalance",
    )


def shared(group: str, topic: str, others: Mapping[int, str]) -> KafkaError:
    """What the stream's condition says while members that are not its own have these, by partition."""
    numbers = ", ".join(map(str, sorted(others)))
    members = ", ".join(sorted(set(others.values()))[:3])
    return KafkaError(
        "GroupShared",
        f"of topic {topic} other members of group {group} have these partitions: {numbers}; this stream gets no record"
        f" of them. The members: {members}. Give each stream a group of its own",
    )


def not_taken_in(name: str, group: Group, said: str) -> str:
    """What the stream's condition says while the group has no place for this member. `said`: by librdkafka, last."""
    members = ", ".join(group.members[:5]) or "none"
    words = f"group {name} has not taken this bridge in yet: it is {group.state}, its members are {members}"
    return f"{words}. The Kafka client said last: {said}" if said else words


def open_transaction(topic: str, offsets: Mapping[int, int]) -> KafkaError:
    """What the stream's condition says while transactions are open there, by partition."""
    where = ", ".join(f"{partition} at offset {offset}" for partition, offset in sorted(offsets.items()))
    return KafkaError(
        "TransactionOpen",
        f"of topic {topic} these partitions are read no further, as a producer's transaction is open there: {where};"
        " reading goes on when it is committed, aborted or timed out",
    )


def unanswered(topic: str, partitions: Iterable[int]) -> KafkaError:
    """What the stream's condition says while these do not answer."""
    numbers = ", ".join(map(str, partitions))
    return KafkaError(
        LEADERLESS,
        f"of topic {topic} these partitions do not answer, as without a leader: {numbers}; each is read when it does",
    )
