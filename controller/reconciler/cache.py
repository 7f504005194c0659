"""All unfinished updates of a stream that this controller knows, a lane for each user; where watch and list meet.

The watch may lag behind the list and repeat what was, so every object is taken by its resourceVersion (versions of
one resource can be compared: KEP-5504), and what a list did not show any more is not revived by an older event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set

from controller.api.user_update import UserUpdate
from controller.reconciler.user_worker import Lane


class Registry:
    def __init__(self, new_lane: Callable[[], Lane]) -> None:
        self._new_lane = new_lane
        self._lanes: dict[str, Lane] = {}
        #: Version of the newest list: an older event about an unknown update is of the past.
        self._listed = 0
        #: Updates finished here since that list, with the version of their end: their echoes are of the past too.
        self._finished: dict[str, int] = {}

    def __iter__(self) -> Iterator[UserUpdate]:
        return (update for lane in self._lanes.values() for update in lane.queue)

    @property
    def listed(self) -> int:
        """Version of the newest list."""
        return self._listed

    @property
    def lanes(self) -> list[Lane]:
        return list(self._lanes.values())

    def lane(self, user: str) -> Lane | None:
        return self._lanes.get(user)

    def merge(self, update: UserUpdate) -> None:
        """Take in what a watch, or a look at the object, has shown."""
        lane = self._lanes.get(update.spec.user)
        known = lane.queue.get(update.name) if lane else None
        newest = known.resource_version if known else max(self._listed, self._finished.get(update.name, 0))
        if update.resource_version <= newest:
            return
        if lane and lane.has_in_hand(update):
            return
        if update.status.finished or update.deleted:
            self.forget(update)
        else:
            self._put(update)

    def knows(self, user: str, name: str, version: int) -> bool:
        """Whether an update is here as it was at that version, or newer."""
        lane = self._lanes.get(user)
        known = lane.queue.get(name) if lane else None
        return known is not None and known.resource_version >= version

    def merge_list(
        self, listed: Set[str], updates: list[UserUpdate], version: int, on_missing: Callable[[UserUpdate], None]
    ) -> None:
        """Take in a consistent list of unfinished updates: their names, and those of them that were not known so.

        `on_missing`: for what the list misses and is not newer.
        """
        if version < self._listed:
            self._finished = {}  # the API server was restored from the past: what was finished may be to do again
        for known in list(self):
            if known.name not in listed and known.resource_version <= version:
                on_missing(known)
        self._listed = 0  # what the list shows exists, whatever an earlier one said
        for update in updates:
            self.merge(update)
        self._listed = version
        self._finished = {name: at for name, at in self._finished.items() if at > version}

    def has(self, update: UserUpdate) -> bool:
        """Whether that very update is unfinished still."""
        lane = self._lanes.get(update.spec.user)
        known = lane.queue.get(update.name) if lane else None
        return known is not None and known.uid == update.uid

    def forget(self, update: UserUpdate) -> None:
        """An update that is gone. One in hand is left to its lane, which finds out by its next write."""
        lane = self._lanes.get(update.spec.user)
        if lane and not lane.has_in_hand(update):
            lane.gone(update)
            lane.wake()

    def finish(self, update: UserUpdate) -> None:
        """An update that its lane has finished and written."""
        self._finished[update.name] = update.resource_version

    def prune(self) -> None:
        """Let go of the lanes of users for whom nothing is left."""
        self._lanes = {user: lane for user, lane in self._lanes.items() if len(lane.queue) or lane.busy}

    def clear(self) -> None:
        """Somebody else may have worked on the stream: nothing that is known here counts any more."""
        for lane in self._lanes.values():
            lane.drop()
        self._lanes, self._listed, self._finished = {}, 0, {}

    def _put(self, update: UserUpdate) -> None:
        lane = self._lanes.get(update.spec.user)
        if lane is None:
            lane = self._lanes[update.spec.user] = self._new_lane()
        lane.queue.push(update)
        lane.wake()
