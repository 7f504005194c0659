"""The Leases of all streams as this process has observed them, and when: one watch and one LIST serve all of them."""

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

#: Seconds after which a Lease that is not renewed has expired.
DURATION = 12
#: Seconds that one request for a Lease may take.
TIMEOUT = 4.0
#: Seconds between looks at what the watch has shown, while a Lease is waited for. A take-over after a graceful stop
#: takes as long.
POLL_PERIOD = 0.5
#: Seconds for which a Lease that is wanted waits for the watch's first list.
SYNC_SECONDS = 1.0
#: Seconds after which a Lease that was deleted is forgotten.
FORGET_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class ObservedLease:
    """One version of a Lease, and when it was observed first: as client-go's observedRecord and observedTime."""

    version: str
    #: Empty where nobody holds it.
    holder: str
    duration: float
    #: When (monotonic) this version was observed first: the clocks of others do not count.
    since: float

    @property
    def free_since(self) -> float:
        """When it was released, or expired; the time may be in the future."""
        return self.since + self.duration if self.holder else self.since

    @property
    def free(self) -> bool:
        return time.monotonic() > self.free_since or not self.holder


class LeaseWatch:
    """The Leases with the label of a stream."""

    def __init__(self, cluster: Cluster, scope: Scope) -> None:
        self._cluster = cluster
        self._scope = scope
        self._observed: dict[tuple[str, str], ObservedLease] = {}
        #: Leases that exist, as the watch shows it.
        self._existing: set[tuple[str, str]] = set()
        #: Set when a namespace's watch has listed its Leases for the first time.
        self._synced: dict[str | None, asyncio.Event] = {each: asyncio.Event() for each in scope.each}
        #: The LIST of each namespace that is not sent yet, and a lock for the one that is under way.
        self._next: dict[str, asyncio.Task[dict[str, ObservedLease]]] = {}
        self._listing: dict[str, asyncio.Lock] = {}

    def observed(self, namespace: str, name: str) -> ObservedLease | None:
        """The last version of it, deleted since or not: its holder may not know that yet."""
        return self._observed.get((namespace, name))

    def exists(self, namespace: str, name: str) -> bool:
        """Whether the watch shows it. A Lease that an earlier version made has no label, and is never shown."""
        return (namespace, name) in self._existing

    @property
    def labelled(self) -> list[tuple[str, str, ObservedLease]]:
        """Namespace, name and last version of all Leases that the watch shows."""
        return [(*key, self._observed[key]) for key in self._existing]

    def observe(self, body: Body) -> ObservedLease:
        """Take in a Lease that was read; what is known of that version stays."""
        metadata, spec = body["metadata"], body.get("spec") or {}
        version, known = metadata["resourceVersion"], self._observed.get(object_key(body))
        if known is None or known.version != version:
            duration = spec.get("leaseDurationSeconds") or DURATION
            known = ObservedLease(version, spec.get("holderIdentity") or "", duration, time.monotonic())
            self._observed[object_key(body)] = known
        return known

    async def follow(self) -> None:
        """Watch for ever. Where the watch is refused or breaks off, list every few seconds."""
        await for_each(self._scope, self._follow)

    async def _follow(self, namespace: str | None) -> None:
        async for change in reflect(self._cluster, LEASES, namespace, label_selector=names.STREAM_LABEL):
            if isinstance(change, Listing):
                for body in change.items:
                    self.observe(body)
                elsewhere = {key for key in self._existing if self._scope.of(key[0]) != namespace}
                self._existing = elsewhere | {object_key(body) for body in change.items}
                self._synced[namespace].set()
                self._forget()
            elif change.type == "DELETED":
                self._existing.discard(object_key(change.object))
                self._forget()
            elif change.type != "BOOKMARK":
                self._existing.add(object_key(change.object))
                known = self._observed.get(object_key(change.object))
                if known is None or int(known.version) < change.resource_version:  # what was read may be newer
                    self.observe(change.object)

    async def synced(self, namespace: str) -> None:
        """Wait for the first list of the namespace's watch, SYNC_SECONDS at most: without it each Lease is read."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SYNC_SECONDS):
                await self._synced[self._scope.of(namespace)].wait()

    async def others(self, namespace: str, stream: str, shape: frozenset[str]) -> dict[str, ObservedLease]:
        """The stream's Leases by name, without those named in `shape`, by a consistent read. Raises ApiError."""
        found = await self._list(namespace)
        undivided = names.lease_name(stream)
        if undivided not in shape and not self.exists(namespace, undivided):
            try:
                body = await self._cluster.get(LEASES, namespace, undivided, timeout=TIMEOUT)
            except errors.NotFound:
                pass
            else:
                found = {**found, undivided: self.observe(body)}
        return {
            name: lease
            for name, lease in found.items()
            if name not in shape and (name == undivided or name.startswith(f"{undivided}."))
        }

    async def _list(self, namespace: str) -> dict[str, ObservedLease]:
        """All Leases of the namespace, by a LIST that is sent after this call, and that serves all calls until then.

        A controller that begins with a hundred streams sends some ten lists instead of a hundred.
        """
        if namespace not in self._next:
            self._next[namespace] = asyncio.get_running_loop().create_task(self._list_next(namespace))
        return await asyncio.shield(self._next[namespace])

    async def _list_next(self, namespace: str) -> dict[str, ObservedLease]:
        async with self._listing.setdefault(namespace, asyncio.Lock()), asyncio.timeout(TIMEOUT):
            del self._next[namespace]  # a call that comes from here on may be for a Lease acquired after this list
            listing = await self._cluster.list(LEASES, namespace, label_selector=names.STREAM_LABEL)
            for body in listing.items:
                self.observe(body)
            # All that is known, not the list alone: the holder of a deleted Lease may not know that yet.
            return {name: lease for (where, name), lease in self._observed.items() if where == namespace}

    def _forget(self) -> None:
        old = time.monotonic() - FORGET_SECONDS
        self._observed = {
            key: lease for key, lease in self._observed.items() if key in self._existing or lease.since > old
        }
