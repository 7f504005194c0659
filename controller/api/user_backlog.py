"""The UserBacklog: which of a user's records are still in Kafka, one entry for each topic id and partition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import accumulate
from typing import Any

from controller.api import names
from controller.api.offset_queue import OffsetQueue, differences

#: Offsets of one user, over all partitions.
MAX_OFFSETS = 20_000
#: Bytes of code of one user, over all partitions: base64 makes four characters of three bytes, and the API server takes
#: 200,000 characters for an entry.
MAX_CODE = 140_000


def manifest(namespace: str, stream: str, user: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The object to create. Its finalizer keeps its records from being lost when somebody deletes it by hand."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "UserBacklog",
        "metadata": {
            "name": names.backlog_name(stream, user),
            "namespace": namespace,
            "labels": {names.STREAM_LABEL: stream, names.USER_LABEL: names.user_label(user)},
            "finalizers": [names.BACKLOG_FINALIZER],
        },
        "spec": {"stream": stream, "user": user, "partitions": entries},
    }


def entry(topic: str, topic_id: str, partition: int, offsets: OffsetQueue) -> dict[str, Any]:
    """An entry of `spec.partitions`. Raises ValueError for a queue without offsets."""
    return {
        "topic": topic,
        "topicId": topic_id,
        "partition": partition,
        "offsets": offsets.encode(),
        "count": len(offsets),
        "first": offsets.first,
        "last": offsets.last,
    }


def read_entry(entry: Mapping[str, Any]) -> OffsetQueue:
    """The offsets of an entry. Raises ValueError where the entry is damaged.

    It is damaged where `offsets` is no such code, and where `count`, `first` and `last` say otherwise: a text that
    somebody has changed may well be a code, too.
    """
    queue = OffsetQueue.decode(entry["offsets"])
    _check(entry, len(queue), *((queue.first, queue.last) if len(queue) else ()))
    return queue


def offsets_in_entry(entry: Mapping[str, Any], offsets: Set[int]) -> set[int]:
    """Those of the offsets that an entry lists. Raises ValueError where the entry is damaged."""
    steps = differences(entry["offsets"])
    _check(entry, len(steps), *((steps[0], sum(steps)) if steps else ()))
    return set(accumulate(steps)) & offsets


def _check(entry: Mapping[str, Any], *seen: int) -> None:
    for name, number in zip(("count", "first", "last"), seen, strict=False):
        if entry.get(name, number) != number:
            raise ValueError(f"the code has {number} as {name}, not {entry[name]}")
