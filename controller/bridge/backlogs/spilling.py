"""When a user's records leave memory for a UserBacklog: memory is full, or one of them holds up `position`."""

from __future__ import annotations

from collections.abc import Callable

from controller.bridge.backlogs.overflow import Overflow
from controller.bridge.context import ConsumerContext
from controller.bridge.dispatch import Dispatch
from controller.bridge.partitions import Partition

#: A position that has not moved for so long is held up, and so is a user for whom nothing has.
STUCK_SECONDS = 8.0
#: Users that are moved at a time.
USERS = 50


class Spilling:
    def __init__(
        self,
        context: ConsumerContext,
        dispatch: Dispatch,
        overflow: Overflow,
        may_begin: Callable[[float], bool],
    ) -> None:
        self._context = context
        self._dispatch = dispatch
        self._overflow = overflow
        self._partitions = context.partitions
        #: Whether a backlog may be begun now.
        self._may_begin = may_begin
        self._positions: dict[Partition, tuple[int, float]] = {}

    @property
    def _room(self) -> int:
        """Backlogs that may still be made."""
        there = max(len(self._overflow), self._context.counts.overflowing or 0)
        return self._context.stream.limits.max_objects - there

    def pass_over(self, seconds: float) -> None:
        """An outage has kept all waiting: that time does not count."""
        self._positions = {p: (position, since + seconds) for p, (position, since) in self._positions.items()}

    def make_room(self, wanted: int, now: float) -> None:
        """Free so many bytes of memory, from the users with most in it."""
        lanes = self._dispatch.lanes
        idle = [lane for _, lane in self._dispatch.idle(now)]
        by_cost = sorted(((sum(w.cost for w in lanes.get(lane) or ()), lane) for lane in idle), reverse=True)
        for cost, lane in by_cost:
            if wanted <= 0:
                return
            wanted -= cost if self._move(lane, now) else 0

    def unblock(self, now: float) -> None:
        """Where a position stands still, move the users who stand still, from the lowest offset on."""
        if not self._stuck(now):
            return
        lanes = self._dispatch.lanes
        still = [lane for seconds, lane in self._dispatch.idle(now) if seconds >= STUCK_SECONDS]
        moved = 0
        for lane in sorted(still, key=lambda lane: next(iter(lanes.get(lane) or ())).record.offset):
            if moved >= USERS:
                return
            moved += self._move(lane, now)

    def _stuck(self, now: float) -> bool:
        """Some position has records in hand and has not moved."""
        old, self._positions = self._positions, {}
        stuck = False
        for partition in self._partitions.known:
            position, since = old.get(partition, (-1, now))
            if position != partition.position:
                position, since = partition.position, now
            self._positions[partition] = position, since
            assert partition.tracker is not None
            stuck |= bool(partition.tracker.outstanding) and now - since >= STUCK_SECONDS
        return stuck

    def _move(self, lane: str, now: float) -> bool:
        """All that is in memory of that lane, and was not read again from a backlog, waits in Kafka from now on."""
        queue = self._dispatch.lanes.get(lane)
        users = {waiting.user for waiting in queue or () if not waiting.from_backlog}
        new = sum(user not in self._overflow for user in users)
        if not users or new > self._room or (new and not self._may_begin(now)):
            return False
        for waiting in self._dispatch.take_back(lane, lambda waiting: not waiting.from_backlog):
            if not self._overflow.append(waiting.user, waiting.partition, waiting.record.offset):
                self._dispatch.offer(waiting)
        return True
