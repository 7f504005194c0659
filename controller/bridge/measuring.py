"""The ends of the partitions, for the lag; and which partitions are not read, though Kafka refuses nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Set

from controller import kafka
from controller.bridge.context import ConsumerContext
from controller.bridge.joining import Joining
from controller.bridge.partitions import Partition

logger = logging.getLogger(__name__)

LAG_SECONDS = 5.0


async def measure(context: ConsumerContext, joining: Joining, member: kafka.GroupMember) -> None:
    """Until cancelled.

    What is told holds twice in a row: by then an election is over, and a transaction of everyday has ended.
    """
    lookup, partitions = context.lookup, context.partitions
    # Reading stops at an open transaction.
    committed = context.stream.kafka.config.get("isolation.level") != "read_uncommitted"
    silent_before: set[int] = set()
    nexts_before: Mapping[int, int] = {}
    while True:
        try:
            ends = await lookup.watermarks([partition.number for partition in partitions])
        except kafka.KafkaError as error:
            logger.debug("Lag not measured: %s", error)
        else:
            silent = {partition.number for partition in context.held} - ends.keys()
            joining.silent(silent & silent_before)
            silent_before = silent
            for partition in partitions:
                partition.answers = partition.number in ends
                if partition.answers:
                    partition.high = ends[partition.number].high
            nexts = _behind(partitions)
            if committed:
                joining.held_up(await _held_up(lookup, dict(nexts.items() & nexts_before.items())))
            nexts_before = nexts
        if again := _refused(partitions, joining.unfetched):
            member.fetch_from(again)
        await asyncio.sleep(LAG_SECONDS)


def _refused(partitions: Iterable[Partition], numbers: Set[int]) -> dict[tuple[int, int], int]:
    """Where reading is, of those of these numbers.

    Read from there anew, one without new records tells of its end. That it is fetched again nothing else would tell.
    """
    known = ((partition, partition.tracker) for partition in partitions if partition.number in numbers)
    return {(partition.number, partition.serial): tracker.next for partition, tracker in known if tracker}


def _behind(partitions: Iterable[Partition]) -> dict[int, int]:
    """Where reading is, by partition, of those that have more."""
    return {
        partition.number: partition.tracker.next
        for partition in partitions
        if partition.tracker and partition.answers and partition.tracker.next < (partition.high or 0)
    }


async def _held_up(lookup: kafka.TopicLookup, nexts: Mapping[int, int]) -> dict[int, int]:
    """Those of these at which a transaction is open: consumers are given nothing from its first record on."""
    if not nexts:
        return {}
    try:
        stable = await lookup.last_stable_offsets(nexts)
    except kafka.KafkaError as error:
        logger.debug("Transactions not looked for: %s", error)
        return {}
    return {number: at for number, at in nexts.items() if stable.get(number, at + 1) <= at}
