"""Whether the members of the group have all of the topic's partitions among them.

The coordinator gives a static member that comes back the assignment that it had, without asking anybody to count the
partitions again: what was added meanwhile, or came with a topic made again, would be nobody's for good.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from controller import kafka

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
#: At the beginning, and as long as something is different.
SOON_SECONDS = 5.0
#: A group that joining again does not mend is left in peace for so long, doubled each time, up to the most.
PATIENCE_SECONDS = 20.0
MAX_PATIENCE_SECONDS = 300.0


async def watch_assignment(
    lookup: kafka.TopicLookup,
    group: str,
    partitions: Callable[[], int],
    unassigned: Callable[[set[int]], None],
    rejoin: Callable[[], None],
) -> None:
    """Until cancelled. `unassigned` is told of what no member has at two looks; `partitions` counts the topic's.

    Each member asks to join again by itself. For the coordinator only that of the group's leader is a reason to
    rebalance; for the others it repeats what it has said. Nothing is revoked by either: docs/decisions/0048.
    """
    before: set[int] = set()
    patience, not_before = PATIENCE_SECONDS, 0.0
    pause = SOON_SECONDS
    while True:
        await asyncio.sleep(pause)
        try:
            assigned = await lookup.assigned(group)
        except kafka.KafkaError as error:
            logger.debug("Assignment not looked at: %s", error)
            continue
        if assigned is None:  # it is being counted again
            continue
        wanted = set(range(partitions()))
        # Those that a topic made again has no more stay assigned, whatever is done: they are in nobody's way.
        missing = wanted - assigned
        lasting, before = missing & before, missing
        pause = SOON_SECONDS if missing else LOOK_SECONDS
        unassigned(lasting)
        if not missing:
            patience, not_before = PATIENCE_SECONDS, 0.0
        elif lasting and time.monotonic() >= not_before:
            logger.warning("Partitions %s are assigned to nobody: joining again", sorted(lasting))
            rejoin()
            not_before = time.monotonic() + patience
            patience = min(2 * patience, MAX_PATIENCE_SECONDS)
