"""Which records of a partition are dealt with, and up to which offset all of them are.

Pure. The order in which records are done is that of their users, so holes stay behind; offsets have gaps of their own
(compaction, markers of transactions), so nothing is ever counted on but records that were seen.

What is done above a hole takes no memory here, however long the hole lasts, but for the UserUpdates among it: 8 bytes
each, and `steering` bounds their number, as none of them can be collected before the hole is gone.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict


class Tracker:
    """One partition, from the offset at which its reading begins."""

    def __init__(self, start: int) -> None:
        self._next = start
        #: Not done, rising. A set, in order; a dict would search for its first key through all that has left it.
        self._open: OrderedDict[int, None] = OrderedDict()
        #: UserUpdates at and above the position, as a heap, and some below it.
        self._made: list[int] = []

    @property
    def position(self) -> int:
        """Every record below is done."""
        return next(iter(self._open), self._next)

    @property
    def next(self) -> int:
        """One above the highest offset that was seen."""
        return self._next

    @property
    def outstanding(self) -> int:
        """Records in hand that are not done."""
        return len(self._open)

    @property
    def made_above(self) -> int:
        """UserUpdates that the position has not passed: they cannot be collected, finished or not."""
        position = self.position
        while self._made and self._made[0] < position:
            heapq.heappop(self._made)
        return len(self._made)

    def begin(self, offset: int) -> bool:
        """A record was read. False where it, or a later one, has been read before: it is in hand or done."""
        if offset < self._next:
            return False
        self._open[offset] = None
        self._next = offset + 1
        return True

    def reach(self, offset: int) -> None:
        """No record lies between those seen and this offset."""
        self._next = max(self._next, offset)

    def done(self, offset: int) -> None:
        """A record is a UserUpdate, a RejectedEvent or in a UserBacklog."""
        self._open.pop(offset, None)

    def made(self, offset: int) -> None:
        """A record is a UserUpdate, read now or from a backlog."""
        if offset >= self.position:
            heapq.heappush(self._made, offset)
