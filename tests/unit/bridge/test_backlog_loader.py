"""Damaged entries of UserBacklogs beside others: what is read again, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from controller.bridge.backlogs.loader import BACKLOG_UNREADABLE, BacklogLoader
from controller.core.records import Record
from controller.kafka import FetchResult, KafkaError, Topic
from tests.support.bridge import NOTHING, make_consumer_context
from tests.support.records import make_record

TOPIC = Topic("events", "id", 1)


class Partition:
    """Records with these keys, from offset 0 on; counts how often it is read."""

    def __init__(self, *keys: bytes) -> None:
        self._records = [make_record(key=key, offset=offset) for offset, key in enumerate(keys)]
        self.reads = 0

    async def fetch(self, partition: int, wanted: Sequence[int]) -> FetchResult:
        self.reads += 1
        found: list[Record] = [record for record in self._records if record.offset in wanted]
        return FetchResult(found, ended=len(found) < len(wanted))


def backlog(user: str, **entry: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The object, and its damaged entry."""
    damaged = {"topicId": "id", "partition": 0, "offsets": "not base64!", **entry}
    metadata = {"name": user.strip(), "uid": user, "resourceVersion": "1"}
    return {"metadata": metadata, "spec": {"user": user, "partitions": [damaged]}}, damaged


def loader(partition: Partition) -> BacklogLoader:
    return BacklogLoader(make_consumer_context(topic=TOPIC), NOTHING, NOTHING, cast(Any, partition))


async def test_neither_what_is_mended_nor_what_cannot_be_is_read_again() -> None:
    """One that nobody can mend is looked at every three seconds, with all that were mended beside it."""
    partition = Partition(b"ana", b"bo", b"ana")
    looks = loader(partition)
    mended, hopeless = backlog("ana", count=2, first=0, last=2), backlog("bo", count=2, first=0, last=2)
    for _ in range(3):
        assert list(await looks.mend(*mended)) == [0, 2]
        with pytest.raises(KafkaError) as refused:
            await looks.mend(*hopeless)
        assert refused.value.reason == BACKLOG_UNREADABLE
    assert partition.reads == 2
    mended[0]["metadata"]["resourceVersion"] = "2"
    await looks.mend(*mended)
    assert partition.reads == 3


async def test_an_entry_that_goes_beyond_the_end_is_told_of_with_what_there_is() -> None:
    """It read all of the partition again and again, and blamed the brokers."""
    with pytest.raises(KafkaError, match="topic has 1 records of the user, from 0 to 0") as refused:
        await loader(Partition(b"ana", b"bo")).mend(*backlog("ana", count=1, first=0, last=7))
    assert refused.value.reason == BACKLOG_UNREADABLE
