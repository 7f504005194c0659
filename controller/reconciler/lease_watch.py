"""What this process has seen of the Leases of all streams, and when: one watch, and one LIST, serve all of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from controller import errors
from controller.api import names
from controller.clients.cluster import LEASES, Body, Cluster, Listing, object_key
from controller.clients.namespaces import for_each
from controller.clients.reflector import reflect
from controller.config import Scope

#: Seconds for which a Lease that is not renewed keeps others off.
DURATION = 12
#: Seconds for one request about Leases.
TIMEOUT = 4.0
#: Seconds between looks of those who wait, at what the watch has shown: what a take-over after a graceful stop costs.
POLL_PERIOD = 0.5
#: Seconds for which one who begins waits for the watch's first list.
SYNC_SECONDS = 1.0
#: Seconds after which a Lease that is not there, though it was seen, is forgotten.
FORGET_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Sighting:
    """One version of a Lease."""

    version: str
    #: Empty where nobody holds it.
    holder: str
    duration: float
    #: When (monotonic) it was seen first: no clock of others counts.
    since: float

    @property
    def free_since(self) -> float:
        """When it was given away, or had not been renewed for its duration; that may be in the future."""
        return self.since + self.duration if self.holder else self.since

    @property
    def free(self) -> bool:
        return time.monotonic() > self.free_since or not self.holder


class Leases:
    """The Leases that bear the label of a stream."""

    def __init__(self, cluster: Cluster, scope: Scope) -> None:
        self._cluster = cluster
        self._scope = scope
        self._seen: dict[tuple[str, str], Sighting] = {}
        #: What is there, by the watch.
        self._there: set[tuple[str, str]] = set()
        #: Done when a namespace's watch has shown what is there for the first time.
        self._synced: dict[str | None, asyncio.Event] = {each: asyncio.Event() for each in scope.each}
        #: By namespace, the LIST that has not been asked for yet, and the one that is under way.
        self._next: dict[str, asyncio.Task[dict[str, Sighting]]] = {}
        self._listing: dict[str, asyncio.Lock] = {}

    def seen(self, namespace: str, name: str) -> Sighting | None:
        """What was seen last, deleted since or not: who held it may not know yet."""
        return self._seen.get((namespace, name))

    def there(self, namespace: str, name: str) -> bool:
        """Whether the watch shows it. One that an earlier version made has no label, and is never shown."""
        return (namespace, name) in self._there

    @property
    def labelled(self) -> list[tuple[str, str, Sighting]]:
        """Namespace, name and last version of all that are there, by the watch."""
        return [(*key, self._seen[key]) for key in self._there]

    def observe(self, body: Body) -> Sighting:
        """What was read, by its version."""
        metadata, spec = body["metadata"], body.get("spec") or {}
        version, known = metadata["resourceVersion"], self._seen.get(object_key(body))
        if known is None or known.version != version:
            duration = spec.get("leaseDurationSeconds") or DURATION
            known = Sighting(version, spec.get("holderIdentity") or "", duration, time.monotonic())
            self._seen[object_key(body)] = known
        return known

    async def follow(self) -> None:
        """Watch, for ever. Where the watch is refused or broken, it is a list every few seconds."""
        await for_each(self._scope, self._follow)

    async def _follow(self, namespace: str | None) -> None:
        async for change in reflect(self._cluster, LEASES, namespace, label_selector=names.STREAM_LABEL):
            if isinstance(change, Listing):
                for body in change.items:
                    self.observe(body)
                elsewhere = {key for key in self._there if self._scope.of(key[0]) != namespace}
                self._there = elsewhere | {object_key(body) for body in change.items}
                self._synced[namespace].set()
                self._forget()
            elif change.type == "DELETED":
                self._there.discard(object_key(change.object))
                self._forget()
            elif change.type != "BOOKMARK":
                self._there.add(object_key(change.object))
                known = self._seen.get(object_key(change.object))
                if known is None or int(known.version) < change.resource_version:  # what was read may be ahead
                    self.observe(change.object)

    async def synced(self, namespace: str) -> None:
        """Wait for the first list of the namespace's watch, for SYNC_SECONDS at most: without it each Lease is read."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SYNC_SECONDS):
                await self._synced[self._scope.of(namespace)].wait()

    async def others(self, namespace: str, stream: str, shape: frozenset[str]) -> dict[str, Sighting]:
        """The stream's Leases but for those of that shape, by a consistent read. Raises ApiError."""
        found = await self._list(namespace)
        undivided = names.lease_name(stream)
        if undivided not in shape and not self.there(namespace, undivided):
            try:
                body = await self._cluster.get(LEASES, namespace, undivided, timeout=TIMEOUT)
            except errors.NotFound:
                pass
            else:
                found = {**found, undivided: self.observe(body)}
        return {
            name: sighting
            for name, sighting in found.items()
            if name not in shape and (name == undivided or name.startswith(f"{undivided}."))
        }

    async def _list(self, namespace: str) -> dict[str, Sighting]:
        """All Leases of the namespace by one LIST that was asked for after this call; it serves all who call meanwhile.

        A controller that takes up a hundred streams asks some ten times, not a hundred, each time for a hundred.
        """
        if namespace not in self._next:
            self._next[namespace] = asyncio.get_running_loop().create_task(self._list_next(namespace))
        return await asyncio.shield(self._next[namespace])

    async def _list_next(self, namespace: str) -> dict[str, Sighting]:
        async with self._listing.setdefault(namespace, asyncio.Lock()), asyncio.timeout(TIMEOUT):
            del self._next[namespace]  # who comes now may have acquired a Lease later than this list is asked for
            listing = await self._cluster.list(LEASES, namespace, label_selector=names.STREAM_LABEL)
            for body in listing.items:
                self.observe(body)
            # As it is now: the watch, which may be behind, goes on.
            return {name: sighting for (where, name), sighting in self._seen.items() if where == namespace}

    def _forget(self) -> None:
        old = time.monotonic() - FORGET_SECONDS
        self._seen = {key: seen for key, seen in self._seen.items() if key in self._there or seen.since > old}
