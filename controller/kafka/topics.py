"""Questions to the brokers about one topic."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from controller import names
from controller.kafka.config import REQUEST_SECONDS, KafkaError, made


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


class TopicLookup:
    """Questions to the brokers about one topic. Each raises KafkaError."""

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        admin = {key: value for key, value in config.items() if not key.startswith(("fetch.", "isolation."))}
        self._trouble = _Trouble()
        self._admin = made(AdminClient, admin | {"error_cb": self._trouble.note})
        self._topic = topic

    async def describe(self) -> Topic:
        futures = self._admin.describe_topics(ck.TopicCollection([self._topic]), request_timeout=REQUEST_SECONDS)
        description = await self._answer(futures[self._topic])
        uuid = description.topic_id
        topic_id = names.topic_id_text(uuid.get_most_significant_bits(), uuid.get_least_significant_bits())
        return Topic(self._topic, topic_id, len(description.partitions))

    async def ranges(self, partitions: Iterable[int]) -> dict[int, Range]:
        """Of the partitions that answer; one without a leader does not. Raises KafkaError where none does."""
        wanted = list(partitions)
        low, high = await asyncio.gather(
            self._offsets(wanted, OffsetSpec.earliest()),  # type: ignore[no-untyped-call]
            self._offsets(wanted, OffsetSpec.latest()),  # type: ignore[no-untyped-call]
        )
        return {partition: Range(low[partition], high[partition]) for partition in low.keys() & high.keys()}

    async def committed(self, group: str, partitions: Iterable[int]) -> dict[int, int]:
        """The group's commits; partitions without one are left out."""
        wanted = [ck.TopicPartition(self._topic, partition) for partition in partitions]
        request = ck.ConsumerGroupTopicPartitions(group, wanted)
        futures = self._admin.list_consumer_group_offsets([request], request_timeout=REQUEST_SECONDS)
        answer = await self._answer(futures[group])
        return {p.partition: p.offset for p in answer.topic_partitions if p.error is None and p.offset >= 0}

    async def _offsets(self, partitions: list[int], spec: OffsetSpec) -> dict[int, int]:
        request = {ck.TopicPartition(self._topic, partition): spec for partition in partitions}
        futures = self._admin.list_offsets(request, request_timeout=REQUEST_SECONDS)
        answers = [self._answer(future) for future in futures.values()]
        found = await asyncio.gather(*answers, return_exceptions=True)
        errors = [each for each in found if isinstance(each, BaseException)]
        if errors and len(errors) == len(found):
            raise errors[0]
        pairs = zip(futures, found, strict=True)
        return {where.partition: each.offset for where, each in pairs if not isinstance(each, BaseException)}

    async def _answer(self, future: Future[Any]) -> Any:
        try:
            async with asyncio.timeout(2 * REQUEST_SECONDS):
                answer = await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise KafkaError("BrokerUnreachable", "no broker answers: see spec.kafka.bootstrapServers") from error
        except ck.KafkaException as error:
            self._admin.poll(0)
            cause = error.args[0]
            if cause.code() == ck.KafkaError._TIMED_OUT:
                cause = self._trouble.last or cause
            raise explained(cause, self._topic) from error
        self._admin.poll(0)
        self._trouble.last = None
        return answer


class _Trouble:
    """Why there is no connection: a request that waits for one is told nothing but that its time is over."""

    def __init__(self) -> None:
        self.last: ck.KafkaError | None = None

    def note(self, error: ck.KafkaError) -> None:
        """Refused credentials tell more than a connection that broke off, and that more than that none is left."""
        if error.code() in REASONS or (self.last is None and error.code() != ck.KafkaError._ALL_BROKERS_DOWN):
            self.last = error


#: What librdkafka adds of a single attempt: a condition would change with each.
_ATTEMPT = re.compile(r" \(after \d+ms in state .*", re.DOTALL)
REASONS = {
    ck.KafkaError.UNKNOWN_TOPIC_OR_PART: "TopicMissing",
    ck.KafkaError._UNKNOWN_TOPIC: "TopicMissing",
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED: "NotAuthorized",
    ck.KafkaError.GROUP_AUTHORIZATION_FAILED: "NotAuthorized",
    ck.KafkaError._AUTHENTICATION: "NotAuthenticated",
    ck.KafkaError._SSL: "NotAuthenticated",
    ck.KafkaError.SASL_AUTHENTICATION_FAILED: "NotAuthenticated",
}


def explained(error: ck.KafkaError, topic: str) -> KafkaError:
    """The reason and the cure, for the stream's condition."""
    reason = REASONS.get(error.code(), "BrokerUnreachable")
    if reason == "TopicMissing":
        return KafkaError(reason, f"topic {topic} does not exist; it is consumed as soon as it is there")
    return KafkaError(reason, f"{_ATTEMPT.sub('', error.str())}: see spec.kafka and its Secret")
