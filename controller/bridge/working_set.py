"""Who may have the next UserUpdate: fair slots for the unfinished ones of a stream.

Pure. A user's first unfinished update may take any of `maxObjects` slots; the second to `maxPerUser`-th only while
fewer than half are taken; a freed slot goes to the user who has waited longest. Counted are all unfinished updates of
the stream, those of other replicas and hand-made ones too, as the watch shows them, and the bridge's own that the watch
has not shown yet.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping

from controller.api.update_stream import Limits

#: Entries of users who were served meanwhile that a queue may hold, beside as many as there are users waiting.
STALE = 100


class Slots:
    """Users are known by any string that tells them apart; '' stands for objects whose user is not known."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._count: Counter[str] = Counter()
        #: Unfinished objects that the watch has shown, and whose they are.
        self._seen: dict[str, str] = {}
        #: The bridge's own creates that the watch has not shown: user, and the version they were created at.
        self._unseen: dict[str, tuple[str, int]] = {}
        self._reserved: Counter[str] = Counter()
        self._total = 0
        self._version = 0
        self._clock = 0
        self._waiting: dict[str, int] = {}
        self._first: list[tuple[int, str]] = []
        self._more: list[tuple[int, str]] = []

    @property
    def taken(self) -> int:
        """Slots in use: seen, created and reserved."""
        return self._total

    @property
    def unsettled(self) -> int:
        """Reserved, or created and not seen yet: what other replicas cannot know of."""
        return len(self._unseen) + self._reserved.total()

    @property
    def full(self) -> bool:
        return self._total >= self._limits.max_objects

    @property
    def starving(self) -> bool:
        """All slots are taken while a user waits for a first one."""
        self._drop_stale(self._first, first=True)
        return self.full and bool(self._first)

    def of(self, user: str) -> int:
        """Slots that this user has."""
        return self._count[user]

    def limit(self, limits: Limits) -> None:
        """New limits act on the next grant; what has a slot keeps it."""
        if limits == self._limits:
            return
        self._limits = limits
        for user in self._waiting:
            self._queue(user)

    def want(self, user: str) -> None:
        """The user waits from now on, if not already."""
        if user not in self._waiting:
            self._clock += 1
            self._waiting[user] = self._clock
            self._queue(user)

    def unwant(self, user: str) -> None:
        """The user waits for nothing any more."""
        self._waiting.pop(user, None)

    def grant(self) -> str | None:
        """Reserve a slot for the user who has waited longest of those who may have one; None: nobody may."""
        queue = self._eligible()
        if queue is None:
            return None
        user = heapq.heappop(queue)[1]
        del self._waiting[user]
        self._reserved[user] += 1
        self._add(user, 1)
        return user

    def release(self, user: str) -> None:
        """A reserved slot was not needed."""
        self._unreserve(user)
        self._add(user, -1)

    def created(self, user: str, name: str, version: int) -> bool:
        """The reserved slot has its object, at that version. False where the watch has shown its end already."""
        if name in self._seen or name in self._unseen or version <= self._version:
            self.release(user)
            return name in self._seen or name in self._unseen
        self._unreserve(user)
        self._unseen[name] = (user, version)
        return True

    def seen(self, user: str, name: str, version: int) -> None:
        """The watch shows an unfinished object."""
        self._version = max(self._version, version)
        if name in self._seen:
            return
        if name in self._unseen:
            self._add(self._unseen.pop(name)[0], -1)
        self._seen[name] = user
        self._add(user, 1)

    def gone(self, name: str, version: int) -> None:
        """The watch shows that an object is finished or deleted."""
        self._version = max(self._version, version)
        if (user := self._seen.pop(name, None)) is not None:
            self._add(user, -1)
        elif name in self._unseen and self._unseen[name][1] <= version:
            self._add(self._unseen.pop(name)[0], -1)

    def listed(self, users: Mapping[str, str], version: int) -> None:
        """All unfinished objects (name: user) at that version."""
        for name in self._seen.keys() - users.keys():
            self.gone(name, version)
        for name, user in users.items():
            self.seen(user, name, version)
        for name in [name for name, (_, created) in self._unseen.items() if created <= version]:
            self._add(self._unseen.pop(name)[0], -1)
        self._version = version

    def reached(self, version: int) -> None:
        """The watch has shown everything up to that version."""
        self._version = max(self._version, version)

    def _eligible(self) -> list[tuple[int, str]] | None:
        if self.full:
            return None
        queues = [(self._first, True)]
        if 2 * self._total < self._limits.max_objects:
            queues.append((self._more, False))
        for queue, first in queues:
            self._drop_stale(queue, first=first)
        return min((queue for queue, _ in queues if queue), key=lambda queue: queue[0], default=None)

    def _drop_stale(self, queue: list[tuple[int, str]], *, first: bool) -> None:
        """Entries are left behind when a user is served or changes queues."""
        while queue and not self._stands(queue[0], first):
            heapq.heappop(queue)

    def _stands(self, entry: tuple[int, str], first: bool) -> bool:
        since, user = entry
        count = self._count[user]
        return self._waiting.get(user) == since and (count == 0 if first else 0 < count < self._limits.max_per_user)

    def _queue(self, user: str) -> None:
        since, count = self._waiting[user], self._count[user]
        if count == 0:
            self._push(self._first, (since, user), first=True)
        elif count < self._limits.max_per_user:
            self._push(self._more, (since, user), first=False)

    def _push(self, queue: list[tuple[int, str]], entry: tuple[int, str], *, first: bool) -> None:
        heapq.heappush(queue, entry)
        if len(queue) > 2 * len(self._waiting) + STALE:
            queue[:] = sorted({entry for entry in queue if self._stands(entry, first)})

    def _unreserve(self, user: str) -> None:
        self._reserved[user] -= 1
        if not self._reserved[user]:
            del self._reserved[user]

    def _add(self, user: str, change: int) -> None:
        self._total += change
        if user:
            self._count[user] += change
            if not self._count[user]:
                del self._count[user]
        if user in self._waiting:
            self._queue(user)
