"""Records of backlogs are read again as their users get room: per partition in offset order, for all users at once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from controller.bridge.backlogs.overflow import Overflow
from controller.bridge.context import ConsumerContext
from controller.bridge.partitions import Partition
from controller.bridge.pending import Lanes, Waiting
from controller.kafka import Fetcher, FetchResult, KafkaError, record_cost

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
#: While there is no backlog: most streams have none, and a hundred of them would wake up two thousand times a second.
IDLE_SECONDS = 0.5
RETRY_SECONDS = 1.0
#: Memory for them.
MAX_COST = 6 << 20


class Rereading:
    def __init__(
        self,
        context: ConsumerContext,
        reader: Fetcher,
        overflow: Overflow,
        lanes: Lanes,
        check_topic: Callable[[], Awaitable[None]],
        offer: Callable[[Waiting], None],
        expire: Callable[[str, Partition, int], None],
        held_up: Callable[[], bool],
    ) -> None:
        self._reader = reader
        self._overflow = overflow
        self._context = context
        self._partitions = context.partitions
        self._lanes = lanes
        self._check_topic = check_topic
        self._offer = offer
        #: Called for a record that Kafka has no more: user, partition, offset.
        self._expire = expire
        #: Too much is made above a position: only what does not lie above it is read.
        self._held_up = held_up

    async def run(self) -> None:
        """Until cancelled. Raises what `check_topic` raises when the topic is another one."""
        while True:
            for partition in self._partitions:
                room = MAX_COST * self._context.memory_share - self._lanes.reread_cost
                if partition.answers and room > 0 and (users := self._wanted(partition)):
                    await self._pass(partition, users, int(room))
            if not len(self._overflow):
                self._reader.close_if_idle()
            await asyncio.sleep(LOOK_SECONDS if len(self._overflow) else IDLE_SECONDS)

    def _wanted(self, partition: Partition) -> dict[int, str]:
        """What lies below the position adds to nothing, and a full backlog may be what holds the position up.

        So may the record at the position itself, where its user's backlog cannot be written.
        """
        below = partition.position + 1 if partition.tracker is not None and self._held_up() else None
        return self._overflow.wanted(partition, below)

    def close(self) -> None:
        self._reader.close()

    async def _pass(self, partition: Partition, users: dict[int, str], room: int) -> None:
        try:
            found = await self._reader.fetch(partition.number, list(users), room)
            # A topic made again has records of other users at these offsets.
            await self._check_topic()
        except KafkaError as error:
            logger.warning("Backlogs not read: %s", error)
            found = FetchResult()
            await asyncio.sleep(RETRY_SECONDS)
        if partition.revoked:
            return
        now = time.monotonic()
        for record in found.records:
            user = users.pop(record.offset)
            self._offer(Waiting(user, record, partition, record_cost(record), now, from_backlog=True))
        for offset in found.missing:
            self._expire(users.pop(offset), partition, offset)
        self._overflow.unload(users, partition)
