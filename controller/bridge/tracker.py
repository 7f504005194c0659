"""Which records of a partition are dealt with, and up to which offset all of them are.

Pure. The order in which records are done is that of their users, so holes stay behind; offsets have gaps of their own
(compaction, markers of transactions), so nothing is ever counted on but records that were seen.
"""

from __future__ import annotations

from collections import deque


class Tracker:
    """One partition, from the offset at which its reading begins."""

    def __init__(self, start: int) -> None:
        self._next = start
        self._open: deque[int] = deque()
        #: Done, but behind one that is not.
        self._done: set[int] = set()

    @property
    def position(self) -> int:
        """Every record below is done."""
        return self._open[0] if self._open else self._next

    @property
    def next(self) -> int:
        """One above the highest offset that was seen."""
        return self._next

    @property
    def outstanding(self) -> int:
        """Records in hand that are not done."""
        return len(self._open) - len(self._done)

    def begin(self, offset: int) -> bool:
        """A record was read. False where it, or a later one, has been read before: it is in hand or done."""
        if offset < self._next:
            return False
        self._open.append(offset)
        self._next = offset + 1
        return True

    def reach(self, offset: int) -> None:
        """No record lies between those seen and this offset."""
        self._next = max(self._next, offset)

    def done(self, offset: int) -> None:
        """A record is a UserUpdate, a RejectedEvent or in a UserBacklog."""
        self._done.add(offset)
        while self._open and self._open[0] in self._done:
            self._done.discard(self._open.popleft())
