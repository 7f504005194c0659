"""Which RejectedEvent shows a record: its own, or in a flood one that it shares with its neighbours.

Pure. The first 100 in any minute have an object each. Beyond that, records of the same reason and partition share one,
whose `lastOffset` and `count` grow and whose message is the first one's. It takes no more after a minute, so that
people see when a flood went on. Where old objects cannot be deleted, no record has one of its own and none is too old
to be shared.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TypeAlias

MINUTE = 60.0
OWN_A_MINUTE = 100
#: Stands before the message of a record that shares its object: the others may have another fault.
FIRST = "the first of several: "

#: Reason, topic id, partition.
Kind: TypeAlias = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Fold:
    """One RejectedEvent, and what it stands for."""

    name: str
    offset: int
    last_offset: int
    count: int
    #: When it was begun, in seconds of any clock.
    since: float
    #: What is wrong with the record at `offset`, as the object says it while it stands for that record alone.
    message: str

    def with_record(self, last_offset: int, count: int) -> Fold:
        return replace(self, last_offset=max(last_offset, self.last_offset), count=self.count + count)


class Folding:
    def __init__(self) -> None:
        self._own: deque[float] = deque()
        self._open: dict[Kind, Fold] = {}
        self._known: dict[Kind, list[tuple[int, int]]] = {}

    def own(self, now: float) -> bool:
        """The next record may have an object of its own, which is counted."""
        while self._own and self._own[0] <= now - MINUTE:
            self._own.popleft()
        if len(self._own) >= OWN_A_MINUTE:
            return False
        self._own.append(now)
        return True

    def current(self, kind: Kind, offset: int, now: float, *, crowded: bool = False) -> Fold | None:
        """The object to share; None: a new one is to be made. Where there are too many, an old one goes on."""
        fold = self._open.get(kind)
        return fold if fold and (crowded or now - fold.since < MINUTE) and fold.offset <= offset else None

    def put(self, kind: Kind, fold: Fold) -> None:
        """That object now stands for that; later ones may share it."""
        self._open[kind] = fold

    def forget_known(self) -> None:
        """All that was there is to be told anew."""
        self._known.clear()

    def know(self, kind: Kind, offset: int, last_offset: int) -> None:
        """An object that was there when reading began."""
        self._known.setdefault(kind, []).append((offset, last_offset))

    def shown(self, kind: Kind, offset: int, last_offset: int) -> bool:
        """All these records have been shown before reading began."""
        return any(first <= offset and last_offset <= last for first, last in self._known.get(kind, ()))
