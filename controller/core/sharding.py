"""Divides a stream into shards by a hash of the user, so that one controller has all updates of a user. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controller.api import names

#: The bucket that each value of the label stands for.
_BUCKETS: Mapping[str | None, int] = {str(bucket): bucket for bucket in range(names.BUCKETS)}


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the `count` shards of a stream: the users whose bucket modulo `count` is `index`."""

    index: int = 0
    count: int = 1

    def owns(self, user: str) -> bool:
        """Whether the user is in this shard."""
        return self.count == 1 or names.bucket(user) % self.count == self.index

    @property
    def selector(self) -> str:
        """A label selector for the objects that may belong to this shard; empty where the stream has one shard.

        It selects the objects in the shard's buckets, and those whose label is missing or names no bucket: their users
        may belong to the shard.
        """
        if self.count == 1:
            return ""
        others = ",".join(str(bucket) for bucket in range(names.BUCKETS) if not self._has(bucket))
        return f"{names.BUCKET_LABEL} notin ({others})"

    def collects(self, body: Mapping[str, Any]) -> bool:
        """Whether this shard deletes the object once it is due. `body` is one that the selector selected.

        An object whose label names a bucket of this shard is deleted here, even if its user is in another shard: the
        other shard's selector does not select it. Any other object is deleted by the shard that its user is in.
        """
        if self.count == 1:
            return True
        bucket = _BUCKETS.get((body["metadata"].get("labels") or {}).get(names.BUCKET_LABEL))
        return (bucket is not None and self._has(bucket)) or self.owns(body["spec"]["user"])

    def share(self, limit: int) -> int:
        """This shard's share of a limit of the stream. The shares of all shards add up to the limit."""
        return limit // self.count + (self.index < limit % self.count)

    def _has(self, bucket: int) -> bool:
        return bucket % self.count == self.index


def shards(count: int) -> list[Shard]:
    """All shards of a stream."""
    return [Shard(index, count) for index in range(count)]
