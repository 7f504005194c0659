"""Whether the stream's own members of the group have all of the topic's partitions among them.

The coordinator gives a static member that comes back the assignment that it had, without asking anybody to count the
partitions again. Partitions that were added meanwhile, or came with a topic made again, would never be assigned.

And who else is in the group, as another stream or another application may be by mistake, is given partitions like any
other member. Nobody would miss their records: to the coordinator all is well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from controller import kafka, logs
from controller.bridge.joining import Joining

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
#: At the beginning, and as long as something is different.
SOON_SECONDS = 5.0
#: Seconds until the next try, where joining again has not helped; doubled each time, up to the most.
REJOIN_SECONDS = 20.0
MAX_REJOIN_SECONDS = 300.0


async def watch_assignment(lookup: kafka.TopicLookup, joining: Joining, member: kafka.GroupMember) -> None:
    """Until cancelled. `joining` is told what each look at the group shows, or what keeps it from view.

    And which partitions no member had twice in a row, and which others had, with the names of these.

    Each member asks to join again by itself. For the coordinator only that of the group's leader is a reason to
    rebalance; for the others it repeats what it has said. Nothing is revoked by either: docs/decisions/0048.
    """
    before: set[int] = set()
    others_before: Mapping[int, str] = {}
    delay, not_before = REJOIN_SECONDS, 0.0
    pause = SOON_SECONDS
    while True:
        await asyncio.sleep(pause)
        try:
            found = await lookup.describe_group(joining.group)
        except kafka.KafkaError as error:
            logger.debug("Assignment not looked at: %s", error)
            joining.look(error)
            continue
        joining.look(found)
        if not found.stable:  # it is being counted again
            continue
        wanted = joining.wanted
        # A static member keeps partitions that a topic made again no longer has, which does no harm.
        missing = wanted - found.owners.keys()
        lasting, before = missing & before, missing
        others = {number: name for number, name in joining.strangers(found).items() if number in wanted}
        staying = {number: name for number, name in others.items() if number in others_before}
        others_before = others
        pause = SOON_SECONDS if missing or others else LOOK_SECONDS
        joining.told(lasting, staying)
        if not missing:
            delay, not_before = REJOIN_SECONDS, 0.0
        elif lasting and time.monotonic() >= not_before:
            numbers = logs.fields(group=joining.group, partitions=sorted(lasting))
            logger.warning("Partitions are assigned to nobody: joining again", extra=numbers)
            member.enforce_rebalance()
            not_before = time.monotonic() + delay
            delay = min(2 * delay, MAX_REJOIN_SECONDS)
