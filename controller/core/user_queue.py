"""One user's queue within a stream: which update is next.

Confluent's Parallel Consumer calls such a queue a *shard*, Restate a *virtual object key*. docs/guarantees.md, "Order",
promises the order that is computed here.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TypeAlias

from controller.api.user_update import UserUpdate

_Rank: TypeAlias = tuple[int, datetime, str]


class UserQueue:
    """The unfinished updates of one user, in a heap for each source.

    The head is the update in hand. Where none is in hand, it is an update that has been called; else the earliest among
    the first updates of all sources, whether that has a phase (it was suspended, say) or not. Updates of different
    sources are compared by time: their sequences mean nothing to each other. An update that this version does not
    understand keeps its place in the queue. Where not even its place is known, it is the head, and all others wait.
    """

    __slots__ = ("_by_name", "_called", "_heaps", "_in_hand", "_requested", "_shown", "_unplaced")

    def __init__(self) -> None:
        # Ten thousand users may wait, most of them with one update, so a queue takes little memory.
        self._by_name: dict[str, UserUpdate] = {}
        #: Names of updates that have been called: more than one only where somebody interferes.
        self._called: tuple[str, ...] = ()
        #: Names of updates with a phase that have not been called: their status says why they wait at the head.
        self._shown: tuple[str, ...] = ()
        #: Names of updates with a pending request. A dict, as an empty one takes a third of the memory of an empty set.
        self._requested: dict[str, None] = {}
        #: All updates by source; empty while there are fewer than two.
        self._heaps: dict[str, list[_Rank]] = {}
        self._in_hand: str | None = None
        #: Names of updates whose place is not known: all others wait.
        self._unplaced: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[UserUpdate]:
        return iter(self._by_name.values())

    def get(self, name: str) -> UserUpdate | None:
        return self._by_name.get(name)

    def replace(self, update: UserUpdate) -> bool:
        """Replace the update by its newer version. False where it is gone, or another object has its name now."""
        known = self._by_name.get(update.name)
        there = known is not None and known.uid == update.uid
        if there:
            self.push(update)
        return there

    def push(self, update: UserUpdate) -> None:
        """Add an update, or replace the one with its name."""
        known = self._by_name.get(update.name)
        if known is not None and known.uid != update.uid and self._in_hand == update.name:
            self._in_hand = None  # another object has that name now
        self._by_name[update.name] = update
        status = update.status
        self._called = _with(self._called, update.name, status.called)
        self._shown = _with(self._shown, update.name, status.phase is not None and not status.called)
        unplaced = update.unreadable is not None and not update.unreadable.placed
        self._unplaced = _with(self._unplaced, update.name, unplaced)
        _put(self._requested, update.name, update.pending_request is not None)
        if known is None or _place(known) != _place(update):
            self._insert(update)

    def _insert(self, update: UserUpdate) -> None:
        """Add it to its source's heap. The heaps are built when a second update comes."""
        if len(self._by_name) > 1:
            for one in (update,) if self._heaps else self._by_name.values():
                heapq.heappush(self._heaps.setdefault(one.source_name, []), _rank(one))

    def remove(self, name: str) -> None:
        """Forget an update that is finished or gone. An unknown name is no error."""
        self._by_name.pop(name, None)
        self._called = _with(self._called, name, False)
        self._shown = _with(self._shown, name, False)
        self._unplaced = _with(self._unplaced, name, False)
        self._requested.pop(name, None)
        if len(self._by_name) < 2:
            self._heaps.clear()
        if self._in_hand == name:
            self._in_hand = None

    def take(self, name: str) -> bool:
        """A call of this update begins: it stays the head until it is removed. False where it was in hand already."""
        new = self._in_hand != name
        self._in_hand = name
        return new

    def put_back(self, name: str) -> None:
        """Undo `take`: the call could not be made."""
        if self._in_hand == name:
            self._in_hand = None

    @property
    def requested(self) -> list[UserUpdate]:
        """Updates with a pending request."""
        return [self._by_name[name] for name in self._requested]

    @property
    def displaced(self) -> list[UserUpdate]:
        """Updates whose status says why they wait at the head, where an earlier one is the head now."""
        head = self.head if self._shown else None
        return [self._by_name[name] for name in self._shown if self._by_name[name] is not head]

    @property
    def head(self) -> UserUpdate | None:
        """The update whose turn it is; None where the queue is empty."""
        if self._unplaced:
            return self._by_name[self._unplaced[0]]
        if self._in_hand is not None:
            return self._by_name[self._in_hand]
        firsts = self._firsts_called() if self._called else self._firsts()
        return min(firsts, key=_between_sources, default=None)

    def _firsts_called(self) -> Iterable[UserUpdate]:
        """The first update of each source that has been called: within a source, sequence decides."""
        called = sorted((self._by_name[name] for name in self._called), key=_rank, reverse=True)
        return {update.source_name: update for update in called}.values()

    def _firsts(self) -> Iterator[UserUpdate]:
        """The first update of each source. Ranks of updates that were removed or replaced are dropped on the way."""
        if not self._heaps:
            yield from self._by_name.values()
        for source, heap in list(self._heaps.items()):
            while heap:
                update = self._by_name.get(heap[0][2])
                if update is not None and _place(update) == (source, heap[0]):
                    yield update
                    break
                heapq.heappop(heap)
            else:
                del self._heaps[source]


def _with(names: tuple[str, ...], name: str, belongs: bool) -> tuple[str, ...]:
    if belongs == (name in names):
        return names
    return (*names, name) if belongs else tuple(other for other in names if other != name)


def _put(names: dict[str, None], name: str, belongs: bool) -> None:
    if belongs:
        names[name] = None
    else:
        names.pop(name, None)


def _rank(update: UserUpdate) -> _Rank:
    """Order within a source; the sequences of hand-made updates may be equal."""
    return update.spec.sequence, update.creation_time, update.name


def _place(update: UserUpdate) -> tuple[str, _Rank]:
    return update.source_name, _rank(update)


def _between_sources(update: UserUpdate) -> tuple[datetime, str, str]:
    return update.timestamp, update.source_name, update.name
