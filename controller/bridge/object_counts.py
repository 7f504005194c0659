"""Counts the UserBacklogs and RejectedEvents of each stream, of all replicas, and knows which are being deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from controller.api import names
from controller.clients.cluster import Cluster, Listing, Resource, object_key
from controller.clients.namespaces import for_each
from controller.clients.reflector import reflect
from controller.config import Scope

#: Namespace and name.
Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """Objects of one stream that replicas of the bridge have created; None: not known yet."""

    #: UserBacklogs: users with more waiting than fits.
    overflowing: int | None
    #: RejectedEvents.
    rejected: int | None

    def write(self, status: Mapping[str, Any]) -> dict[str, Any]:
        written = dict(status)
        if self.overflowing is not None:
            written["users"] = {**(status.get("users") or {}), "overflowing": self.overflowing}
        if self.rejected is not None:
            written["counts"] = {**(status.get("counts") or {}), "rejected": self.rejected}
        return written


class ObjectCounts:
    """Counts the objects of one kind, for all streams."""

    def __init__(self, cluster: Cluster, resource: Resource, scope: Scope) -> None:
        self._cluster = cluster
        self._resource = resource
        self._scope = scope
        self._streams: dict[Key, Key] = {}
        self._counts: Counter[Key] = Counter()
        #: Namespaces of the scope whose objects have been listed.
        self._listed: set[str | None] = set()
        #: The uids of objects that somebody has deleted and a finalizer keeps.
        self.deleted: dict[Key, str] = {}

    def count(self, stream: Key) -> int | None:
        """Objects with the label of that stream; None until they have been listed, as some may not be seen yet."""
        return self._counts[stream] if self._scope.of(stream[0]) in self._listed else None

    async def follow(self) -> None:
        """Keep the counts until cancelled."""
        await for_each(self._scope, self._follow)

    async def _follow(self, namespace: str | None) -> None:
        async for change in reflect(self._cluster, self._resource, namespace, metadata_only=True):
            if isinstance(change, Listing):
                there = {object_key(body) for body in change.items}
                for key in [key for key in self._streams if self._scope.of(key[0]) == namespace and key not in there]:
                    self._remove(key)
                for body in change.items:
                    self._put(body)
                self._listed.add(namespace)
            elif change.type == "DELETED":
                self._remove(object_key(change.object))
            elif change.type != "BOOKMARK":
                self._put(change.object)

    def _put(self, body: dict[str, Any]) -> None:
        key = object_key(body)
        self._remove(key)
        label = (body["metadata"].get("labels") or {}).get(names.STREAM_LABEL, "")
        self._streams[key] = key[0], label
        self._counts[self._streams[key]] += 1
        if "deletionTimestamp" in body["metadata"]:
            self.deleted[key] = body["metadata"]["uid"]

    def _remove(self, key: Key) -> None:
        self.deleted.pop(key, None)
        if (stream := self._streams.pop(key, None)) is not None:
            self._counts[stream] -= 1
            if not self._counts[stream]:
                del self._counts[stream]
