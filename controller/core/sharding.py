"""How a stream is divided among controllers: by a hash of the user, so that all updates of a user are in one shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controller.api import names

#: Each bucket by the label's value.
_BUCKETS: Mapping[str | None, int] = {str(bucket): bucket for bucket in range(names.BUCKETS)}


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a stream: the users whose bucket modulo `count` is `index`."""

    index: int = 0
    count: int = 1

    def owns(self, user: str) -> bool:
        return self.count == 1 or names.bucket(user) % self.count == self.index

    @property
    def selector(self) -> str:
        """Label selector of what may be of this shard: its buckets, and what bears none, or one that there is not.

        Empty where the stream is not divided.
        """
        if self.count == 1:
            return ""
        others = ",".join(str(bucket) for bucket in range(names.BUCKETS) if not self._has(bucket))
        return f"{names.BUCKET_LABEL} notin ({others})"

    def finds(self, body: Mapping[str, Any]) -> bool:
        """Whether an object that the selector gives is for this shard to collect: by its label, else by its user.

        The label comes first: another shard, whose user it may be, does not get to see it.
        """
        if self.count == 1:
            return True
        bucket = _BUCKETS.get((body["metadata"].get("labels") or {}).get(names.BUCKET_LABEL))
        return (bucket is not None and self._has(bucket)) or self.owns(body["spec"]["user"])

    def share(self, whole: int) -> int:
        """Its part of a limit of the stream: the parts of all shards together are the whole."""
        return whole // self.count + (self.index < whole % self.count)

    def _has(self, bucket: int) -> bool:
        return bucket % self.count == self.index


def shards(count: int) -> list[Shard]:
    return [Shard(index, count) for index in range(count)]
