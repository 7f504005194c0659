"""Records that wait in memory for their slot, each user's in order.

Pure. A lane is what slots and labels call a user: two users of one label, made up to collide, would share a lane, which
keeps the order of both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from controller.bridge.partitions import Partition
from controller.core.records import Record


@dataclass(frozen=True, slots=True)
class Waiting:
    """A good record in memory."""

    user: str
    record: Record
    partition: Partition
    #: Bytes of memory, about.
    cost: int
    #: When it was read, by the monotonic clock.
    since: float
    #: Read again from a backlog, which it leaves when it is a UserUpdate.
    from_backlog: bool = False


class Lanes:
    def __init__(self) -> None:
        self._lanes: dict[str, deque[Waiting]] = {}
        #: Bytes of memory of all that wait, those being created included.
        self.cost = 0
        #: That of records from backlogs.
        self.reread_cost = 0

    def __iter__(self) -> Iterator[tuple[str, deque[Waiting]]]:
        return iter(list(self._lanes.items()))

    def __len__(self) -> int:
        return len(self._lanes)

    def add(self, lane: str, waiting: Waiting) -> None:
        self._lanes.setdefault(lane, deque()).append(waiting)
        self._count(waiting, 1)

    def waits(self, lane: str) -> bool:
        return lane in self._lanes

    def get(self, lane: str) -> deque[Waiting] | None:
        return self._lanes.get(lane)

    def take(self, lane: str) -> Waiting:
        """The first of that lane; its memory counts until `settle`."""
        queue = self._lanes[lane]
        waiting = queue.popleft()
        if not queue:
            del self._lanes[lane]
        return waiting

    def put_back(self, lane: str, waiting: Waiting) -> None:
        """What was taken is the first of that lane again."""
        self._lanes.setdefault(lane, deque()).appendleft(waiting)

    def settle(self, waiting: Waiting) -> None:
        """What was taken is a UserUpdate, or given up."""
        self._count(waiting, -1)

    def remove(self, lane: str, unwanted: Callable[[Waiting], bool]) -> list[Waiting]:
        """Take those out, in order."""
        queue = self._lanes.get(lane)
        if queue is None:
            return []
        removed = [waiting for waiting in queue if unwanted(waiting)]
        if removed:
            kept = deque(waiting for waiting in queue if not unwanted(waiting))
            if kept:
                self._lanes[lane] = kept
            else:
                del self._lanes[lane]
            for waiting in removed:
                self._count(waiting, -1)
        return removed

    def _count(self, waiting: Waiting, sign: int) -> None:
        self.cost += sign * waiting.cost
        if waiting.from_backlog:
            self.reread_cost += sign * waiting.cost
