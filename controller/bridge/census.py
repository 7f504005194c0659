"""How many objects of a kind each stream has, of all replicas, and which of them are deleted but not gone."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias

from controller import names
from controller.cluster import Cluster, Listing, Resource, object_key
from controller.reflector import reflect

#: Namespace and name.
Key: TypeAlias = tuple[str, str]


class Census:
    def __init__(self, cluster: Cluster, resource: Resource) -> None:
        self._cluster = cluster
        self._resource = resource
        self._streams: dict[Key, Key] = {}
        self._counts: Counter[Key] = Counter()
        self._listed = False
        #: Deleted by someone, and kept by a finalizer.
        self.deleted: set[Key] = set()

    def count(self, stream: Key) -> int | None:
        """Objects of that stream, by their label: one whose label someone changed is counted where it says.

        None until they have been listed: that there are none yet to be seen does not mean that there are none.
        """
        return self._counts[stream] if self._listed else None

    async def follow(self) -> None:
        """Keep the counts, for as long as this runs."""
        async for change in reflect(self._cluster, self._resource, metadata_only=True):
            if isinstance(change, Listing):
                there = {object_key(body) for body in change.items}
                for key in self._streams.keys() - there:
                    self._remove(key)
                for body in change.items:
                    self._put(body)
                self._listed = True
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
            self.deleted.add(key)

    def _remove(self, key: Key) -> None:
        self.deleted.discard(key)
        if (stream := self._streams.pop(key, None)) is not None:
            self._counts[stream] -= 1
            if not self._counts[stream]:
                del self._counts[stream]
