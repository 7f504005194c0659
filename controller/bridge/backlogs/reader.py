"""A UserBacklog's entry as it is read, and what becomes of one that somebody has damaged.

The offsets of an entry are not all that is known of it. Its records are all good ones of its user from `first` to
`last`: while a user has a backlog every new record of theirs goes behind it, and it is worked off from the front. They
are still in Kafka, so the entry is made anew from the topic. Nobody can tell which of its numbers were changed as well,
so what is found has to be `count` records, with `first` and `last` among them: one that is left out is lost, and one
too many, finished and collected long ago, runs again.
"""

from __future__ import annotations

import logging
from typing import Final

from controller.api.offset_queue import OffsetQueue
from controller.api.user_backlog import read_entry
from controller.clients.cluster import Body
from controller.core.records import UpdateEvent, read_record
from controller.kafka import Fetcher, KafkaError, Topic

logger = logging.getLogger(__name__)

#: The reason of the condition, here and in `assignment`.
UNREADABLE: Final = "BacklogUnreadable"
_ADVICE = (
    "Set count, first and last to the records that are to become updates, which the bridge then finds; or take the"
    " entry out, which gives them all up"
)
#: Offsets that are asked for in one pass.
CHUNK = 2000


class BacklogReader:
    """Reads the entries of one topic's backlogs."""

    def __init__(self, topic: Topic, rereader: Fetcher) -> None:
        self._topic = topic
        self._rereader = rereader
        #: What became of damaged ones, by the object's uid and version and the partition: the code of their offsets, or
        #: why there are none. One that nobody can mend is looked at again and again, and all the others with it.
        self._mended: dict[tuple[str, str, int], str | KafkaError] = {}

    def read(self, entry: Body) -> OffsetQueue | None:
        """None where it is damaged."""
        try:
            return read_entry(entry)
        except ValueError:
            return None

    async def mend(self, body: Body, entry: Body) -> OffsetQueue:
        """A damaged one, from what the topic has. Raises KafkaError: UNREADABLE, or what the brokers refuse."""
        metadata = body["metadata"]
        key = metadata["uid"], metadata["resourceVersion"], entry["partition"]
        if key not in self._mended:
            try:
                self._mended[key] = OffsetQueue(await self._mend(body, entry)).encode()
            except KafkaError as error:
                if error.reason != UNREADABLE:
                    raise
                self._mended[key] = error
        if isinstance(found := self._mended[key], KafkaError):
            raise found
        return OffsetQueue.decode(found)

    async def _mend(self, body: Body, entry: Body) -> list[int]:
        what = f"UserBacklog {body['metadata']['name']}, partition {entry['partition']}"
        told = tuple(entry.get(name) for name in ("count", "first", "last"))
        count, first, last = told
        if entry["topicId"] != self._topic.id:
            message = f"{what}: its offsets cannot be read; the topic that they are of is gone. Take the entry out"
            raise KafkaError(UNREADABLE, message)
        if not (count and first is not None and last is not None):
            message = f"{what}: its offsets cannot be read, and it does not say which they are. {_ADVICE}"
            raise KafkaError(UNREADABLE, message)
        logger.warning("%s: its offsets cannot be read; reading them again from the topic", what)
        found = await self._offsets(body["spec"]["user"].encode(), entry["partition"], first, last)
        seen = (len(found), found[0], found[-1]) if found else (0, None, None)
        if seen != told:
            message = (
                f"{what}: its offsets cannot be read. It says that they are {count} from {first} to {last}, where the"
                f" topic has {seen[0]} records of the user" + (f", from {seen[1]} to {seen[2]}" if found else "")
            )
            raise KafkaError(UNREADABLE, f"{message}. {_ADVICE}")
        logger.warning("%s: mended, with all of its %d records", what, count)
        return found

    async def _offsets(self, user: bytes, partition: int, first: int, last: int) -> list[int]:
        """Those of the user's good records from the first to the last. Raises KafkaError."""
        found: list[int] = []
        while first <= last:
            wanted = range(first, min(first + CHUNK, last + 1))
            read = await self._rereader.fetch(partition, wanted)
            if not (read.records or read.missing):
                if read.ended:
                    break  # somebody has made `last` an offset that no record has
                message = (
                    f"partition {partition}: no record comes from offset {first} on, and a UserBacklog ends at {last}"
                )
                raise KafkaError("BrokerUnreachable", message)
            good = [record for record in read.records if record.key == user]
            found += [r.offset for r in good if isinstance(read_record(r, put_aside=True), UpdateEvent)]
            first += len(read.records) + len(read.missing)  # what it found no time or room for comes next
        return found
