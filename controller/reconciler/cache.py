"""The unfinished updates of a shard, as lists and the watch have shown them, with a worker for each user.

The watch may be behind a list and repeat events that are past. So an object is taken in only if its resourceVersion is
newer than the one that is known (versions of one resource can be compared: KEP-5504), and an older event does not bring
back an update that a list did not show any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set

from controller.api.user_update import UserUpdate
from controller.reconciler.user_worker import UserWorker


class Cache:
    """The workers of a shard's users, each with its user's queue."""

    def __init__(self, new_worker: Callable[[], UserWorker]) -> None:
        self._new_worker = new_worker
        self._workers: dict[str, UserWorker] = {}
        #: Version of the newest list: an older event of an unknown update is past.
        self._listed = 0
        #: Updates finished here since that list, with the version of their end: older events of them are past, too.
        self._finished: dict[str, int] = {}

    def __iter__(self) -> Iterator[UserUpdate]:
        return (update for worker in self._workers.values() for update in worker.queue)

    @property
    def listed(self) -> int:
        """Version of the newest list."""
        return self._listed

    @property
    def workers(self) -> list[UserWorker]:
        return list(self._workers.values())

    def worker(self, user: str) -> UserWorker | None:
        return self._workers.get(user)

    def merge(self, update: UserUpdate) -> None:
        """Take in an update that was read, or that the watch has shown."""
        worker = self._workers.get(update.spec.user)
        known = worker.queue.get(update.name) if worker else None
        newest = known.resource_version if known else max(self._listed, self._finished.get(update.name, 0))
        if update.resource_version <= newest:
            return
        if worker and worker.has_in_hand(update):
            return
        if update.status.finished or update.deleted:
            self.forget(update)
        else:
            self._put(update)

    def knows(self, user: str, name: str, version: int) -> bool:
        """Whether an update is here in that version or a newer one."""
        worker = self._workers.get(user)
        known = worker.queue.get(name) if worker else None
        return known is not None and known.resource_version >= version

    def merge_list(
        self, listed: Set[str], updates: list[UserUpdate], version: int, on_missing: Callable[[UserUpdate], None]
    ) -> None:
        """Take in a consistent list of unfinished updates: all names, and the updates that were not known as listed.

        `on_missing` gets each known update that is not in the list and not newer than it.
        """
        if version < self._listed:
            self._finished = {}  # the API server was restored from a backup: what was finished may be unfinished again
        for known in list(self):
            if known.name not in listed and known.resource_version <= version:
                on_missing(known)
        self._listed = 0  # what this list shows exists, whatever an earlier one has shown
        for update in updates:
            self.merge(update)
        self._listed = version
        self._finished = {name: at for name, at in self._finished.items() if at > version}

    def has(self, update: UserUpdate) -> bool:
        """Whether that very update is still unfinished."""
        worker = self._workers.get(update.spec.user)
        known = worker.queue.get(update.name) if worker else None
        return known is not None and known.uid == update.uid

    def forget(self, update: UserUpdate) -> None:
        """Remove an update that is gone. A worker that works on it just now finds that out by its next write."""
        worker = self._workers.get(update.spec.user)
        if worker and not worker.has_in_hand(update):
            worker.gone(update)
            worker.wake()

    def finish(self, update: UserUpdate) -> None:
        """Remember that a worker has written the end of an update."""
        self._finished[update.name] = update.resource_version

    def prune(self) -> None:
        """Remove the workers of users that have no update left."""
        self._workers = {user: worker for user, worker in self._workers.items() if len(worker.queue) or worker.running}

    def clear(self) -> None:
        """Forget everything: another controller may have worked on the stream."""
        for worker in self._workers.values():
            worker.drop()
        self._workers, self._listed, self._finished = {}, 0, {}

    def _put(self, update: UserUpdate) -> None:
        worker = self._workers.get(update.spec.user)
        if worker is None:
            worker = self._workers[update.spec.user] = self._new_worker()
        worker.queue.push(update)
        worker.wake()
