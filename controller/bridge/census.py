"""All UserBacklogs of the cluster: how many each stream has, and those that nobody works off any more.

A UserBacklog has a finalizer, so that deleting it by hand loses nothing. Where its stream is gone there is nobody to
let go of it: then this does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

from controller import names
from controller.cluster import BACKLOGS, Cluster, Listing
from controller.errors import ApiError, Conflict, NotFound
from controller.reflector import reflect

logger = logging.getLogger(__name__)

#: Namespace and name.
Key: TypeAlias = tuple[str, str]

RETRY_SECONDS = 5.0


class Census:
    def __init__(self, cluster: Cluster, exists: Callable[[Key], bool]) -> None:
        self._cluster = cluster
        #: Whether there is such a stream.
        self._exists = exists
        self._streams: dict[Key, Key] = {}
        self._counts: Counter[Key] = Counter()
        self._deleted: set[Key] = set()

    def count(self, stream: Key) -> int:
        """UserBacklogs of that stream, of all replicas."""
        return self._counts[stream]

    async def follow(self) -> None:
        """Keep the counts, from the labels: a backlog whose label someone changed is counted where it says."""
        async for change in reflect(self._cluster, BACKLOGS, metadata_only=True):
            if isinstance(change, Listing):
                there = {_key(body) for body in change.items}
                for key in self._streams.keys() - there:
                    self._remove(key)
                for body in change.items:
                    self._put(body)
            elif change.type == "DELETED":
                self._remove(_key(change.object))
            elif change.type != "BOOKMARK":
                self._put(change.object)

    async def release(self) -> None:
        """Let go of those that are deleted and whose stream is gone."""
        while True:
            for key in list(self._deleted):
                if not self._exists(self._streams[key]):
                    await self._release(key)
            await asyncio.sleep(RETRY_SECONDS)

    async def _release(self, key: Key) -> None:
        namespace, name = key
        try:
            body = await self._cluster.get(BACKLOGS, namespace, name)
            # The label is for people: whose it is stands in the spec.
            if self._exists((namespace, body["spec"]["stream"])):
                return
            version = body["metadata"]["resourceVersion"]
            kept = [entry for entry in body["metadata"].get("finalizers") or () if entry != names.BACKLOG_FINALIZER]
            patch = {"metadata": {"resourceVersion": version, "finalizers": kept or None}}
            await self._cluster.patch(BACKLOGS, namespace, name, patch)
        except (NotFound, Conflict):
            pass
        except ApiError as error:
            logger.warning("UserBacklog not let go: %s", error)

    def _put(self, body: dict[str, Any]) -> None:
        key = _key(body)
        self._remove(key)
        label = (body["metadata"].get("labels") or {}).get(names.STREAM_LABEL, "")
        self._streams[key] = key[0], label
        self._counts[self._streams[key]] += 1
        if "deletionTimestamp" in body["metadata"]:
            self._deleted.add(key)

    def _remove(self, key: Key) -> None:
        self._deleted.discard(key)
        if (stream := self._streams.pop(key, None)) is not None:
            self._counts[stream] -= 1
            if not self._counts[stream]:
                del self._counts[stream]


def _key(body: dict[str, Any]) -> Key:
    return body["metadata"]["namespace"], body["metadata"]["name"]
