"""The stream's unfinished UserUpdates, by user: which user may have the next one, and which update it comes after.

Pure. A user's first unfinished update may take any of `maxObjects` slots; the second to `maxPerUser`-th only while
fewer than half are taken; a freed slot goes to the user who has waited longest. All unfinished updates of the stream
count, those of other replicas and hand-made ones too, as the watch shows them, and the bridge's own that the watch has
not shown yet.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from controller.api import names
from controller.api.update_stream import Limits
from controller.core.records import UpdateEvent

#: A queue is cleared of outdated entries when it is longer than twice the number of waiting users and so many more.
STALE = 100

#: Topic id, partition, user: within it updates come after each other by offset.
SourceKey: TypeAlias = tuple[str, int, str]


@dataclass(slots=True)
class WorkingSetEntry:
    """An unfinished update."""

    #: The user's label; '' where the object has none.
    label: str
    #: The object was there at this version.
    version: int
    #: The watch or a list has shown it.
    seen: bool
    #: Its source, as far as it is known; None for hand-made updates, and for those that only the watch has shown.
    key: SourceKey | None = None
    offset: int = -1


class WorkingSet:
    """Users are known by their label, or any string that tells them apart."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._updates: dict[str, WorkingSetEntry] = {}
        #: Names of updates by offset: when the last one is skipped, the one before it is the last.
        self._names: dict[SourceKey, dict[int, str]] = {}
        self._unseen = 0
        #: Updates and reserved slots of each user, and slots that are reserved for one.
        self._count: Counter[str] = Counter()
        self._reserved: Counter[str] = Counter()
        self._total = 0
        self._version = 0
        #: Users who wait, each with the number of their turn, and the two queues in which they do.
        self._waiting: dict[str, int] = {}
        self._turn = 0
        self._first: list[tuple[int, str]] = []
        self._more: list[tuple[int, str]] = []

    @property
    def taken(self) -> int:
        """Slots in use: by updates that were seen or created, and reserved ones."""
        return self._total

    @property
    def unseen(self) -> int:
        """Reserved, or created and not seen yet: what other replicas cannot know of."""
        return self._unseen + self._reserved.total()

    @property
    def version(self) -> int:
        """Everything up to this version was shown."""
        return self._version

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

    def after(self, event: UpdateEvent) -> str | None:
        """The user's last update below this record, of the same topic and partition, that is not known to be finished.

        It is no update of another source and none that was made by hand: across sources two updates could wait for each
        other. Nor is it one that comes later in the source: after somebody has deleted an update, its record may be
        read again, and must not wait for updates that wait for it.
        """
        offsets = self._names.get(_key(event), {})
        last = max((offset for offset in offsets if offset < event.source.offset), default=None)
        return offsets[last] if last is not None else None

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
            self._turn += 1
            self._waiting[user] = self._turn
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

    def created(self, user: str, event: UpdateEvent, name: str, version: int) -> bool:
        """The slot that was granted to the user has its object, at that version.

        False where the watch, which may be faster than the answer, has shown its end already.
        """
        entry = self._updates.get(name)
        if entry is None and version > self._version:
            self._unreserve(user)
            entry = self._updates[name] = WorkingSetEntry(user, version, seen=False)
            self._unseen += 1
        else:
            self.release(user)
        if entry is not None:
            self._place(name, entry, _key(event), event.source.offset)
        return entry is not None

    def shown(self, user: str, name: str, version: int) -> None:
        """The watch shows an unfinished update, and its label."""
        self._version = max(self._version, version)
        entry = self._updates.get(name)
        if entry is None:
            self._updates[name] = WorkingSetEntry(user, version, seen=True)
            self._add(user, 1)
        elif not entry.seen:
            self._add(entry.label, -1)
            self._add(user, 1)
            entry.label, entry.seen = user, True
            self._unseen -= 1

    def gone(self, name: str, version: int) -> None:
        """The watch shows that an update is finished or deleted."""
        self._version = max(self._version, version)
        entry = self._updates.get(name)
        if entry is not None and (entry.seen or entry.version <= version):
            self._remove(name, entry)

    def reached(self, version: int) -> None:
        """The watch has shown everything up to that version."""
        self._version = max(self._version, version)

    def listed(self, updates: Iterable[Mapping[str, Any]], version: int, asked_at: int) -> None:
        """All unfinished updates at that version, as whole objects.

        `asked_at` is the `version` that was shown when they were asked for; the watch may have gone on since.
        """
        bodies = {update["metadata"]["name"]: update["spec"] for update in updates}
        labels = {name: names.user_label(spec["user"]) for name, spec in bodies.items()}
        self.listed_labels(labels, version, asked_at)
        for name, spec in bodies.items():
            if source := spec.get("source"):
                key = (source["topicId"], source["partition"], spec["user"])
                self._place(name, self._updates[name], key, source["offset"])

    def listed_labels(self, labels: Mapping[str, str], version: int, asked_at: int | None = None) -> None:
        """All unfinished updates at that version: the user's label by name. Updates that were created later are kept.

        Where the list is older than what was shown when it was asked for (`asked_at`; None: no watch has gone on
        since), the API server was restored from a backup: then no update is left that only the watch has shown.
        """
        restored = version < (self._version if asked_at is None else asked_at)
        for name, entry in list(self._updates.items()):
            if name not in labels and (entry.version <= version or (restored and entry.seen)):
                self._remove(name, entry)
        for name, label in labels.items():
            self.shown(label, name, version)
        self._version = version

    def _place(self, name: str, entry: WorkingSetEntry, key: SourceKey, offset: int) -> None:
        entry.key, entry.offset = key, offset
        self._names.setdefault(key, {})[offset] = name

    def _remove(self, name: str, entry: WorkingSetEntry) -> None:
        del self._updates[name]
        self._unseen -= not entry.seen
        self._add(entry.label, -1)
        if entry.key is not None:
            del self._names[entry.key][entry.offset]
            if not self._names[entry.key]:
                del self._names[entry.key]

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
        turn, user = entry
        count = self._count[user]
        return self._waiting.get(user) == turn and (count == 0 if first else 0 < count < self._limits.max_per_user)

    def _queue(self, user: str) -> None:
        turn, count = self._waiting[user], self._count[user]
        if count == 0:
            self._push(self._first, (turn, user), first=True)
        elif count < self._limits.max_per_user:
            self._push(self._more, (turn, user), first=False)

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


def _key(event: UpdateEvent) -> SourceKey:
    return event.source.topic_id, event.source.partition, event.user
