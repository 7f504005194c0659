"""Where reading begins, and the entries of `UpdateStream.status.partitions`.

Pure. `position` in the status is the authority, the group's commit its mirror: a commit knows no topic id, so it
counts only where the status has no entry for the topic under any id. Where another id or partition of the topic is
known, a new one begins at its first offset, whatever `auto.offset.reset` says: so neither an expired group nor a topic
that was made again skips or repeats a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.kafka import Range, Topic


class WentBack(Exception):
    """The status knows less than was written to it: the API server was restored. What is in memory is worth nothing."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where the reading of a partition begins."""

    offset: int
    #: Records below `offset` that Kafka removed before they were read, from the first to the last; None: none.
    expired: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """How a partition stands."""

    topic: str
    topic_id: str
    partition: int
    position: int
    committed: int | None = None
    lag: int | None = None

    def for_status(self) -> dict[str, Any]:
        optional = {"committed": self.committed, "lag": self.lag}
        return {
            "topic": self.topic,
            "topicId": self.topic_id,
            "partition": self.partition,
            "position": self.position,
            **{name: value for name, value in optional.items() if value is not None},
        }


def needs_commits(status: Mapping[str, Any]) -> bool:
    """No entry for the topic under any id: only then the group's commit decides."""
    return not status.get("partitions")


def starts(
    status: Mapping[str, Any],
    topic: Topic,
    ranges: Mapping[int, Range],
    committed: Mapping[int, int],
    reset: str,
) -> dict[int, Start]:
    """Where to begin with each partition of `ranges`; `committed` is used only where `needs_commits`."""
    known = {
        entry["partition"]: entry["position"]
        for entry in status.get("partitions") or ()
        if entry["topicId"] == topic.id
    }
    if needs_commits(status):
        known = dict(committed)
        first: Callable[[Range], int] = (lambda r: r.high) if reset == "latest" else (lambda r: r.low)
    else:
        first = lambda r: r.low  # noqa: E731
    return {number: _start(known.get(number, first(there)), there) for number, there in ranges.items()}


def moved(status: Mapping[str, Any], topic: Topic, commits: Mapping[int, int]) -> list[str]:
    """Which of the group's commits somebody else has made, for people.

    The bridge commits what is in the status already, and writes what was accepted there later: its own commit lies
    between the two.
    """
    return [
        f"partition {entry['partition']} at {commit}, not {entry.get('committed', entry['position'])}"
        for entry in status.get("partitions") or ()
        if entry["topicId"] == topic.id and (commit := commits.get(entry["partition"])) is not None
        if not entry.get("committed", 0) <= commit <= entry["position"]
    ]


def first_entries(topic: Topic, begun: Mapping[int, Start]) -> list[Entry]:
    """What a stream without any position writes of all partitions at once.

    One by one they would not do: the first entry makes the commits of the other partitions count no more.
    """
    return [
        Entry(topic.name, topic.id, number, start.expired[0] if start.expired else start.offset)
        for number, start in begun.items()
    ]


def with_first_entries(status: Mapping[str, Any], entries: Iterable[Entry]) -> dict[str, Any]:
    """The status with these entries, unless another replica was faster."""
    return with_entries(status, entries) if needs_commits(status) else dict(status)


def _start(wanted: int, there: Range) -> Start:
    if wanted < there.low:
        return Start(there.low, expired=(wanted, there.low - 1))
    return Start(wanted)


def with_entries(status: Mapping[str, Any], entries: Iterable[Entry]) -> dict[str, Any]:
    """The status with these entries in place of the older ones; no entry of others is dropped."""
    merged = {(entry["topicId"], entry["partition"]): entry for entry in status.get("partitions") or ()}
    for entry in entries:
        key = (entry.topic_id, entry.partition)
        merged[key] = {**merged.get(key, {}), **entry.for_status()}
    return {**status, "partitions": list(merged.values())}


def check_not_back(status: Mapping[str, Any], topic_id: str, recorded: Mapping[int, int]) -> None:
    """Raises WentBack where the status has a lower position than was written to it, or none."""
    known = {
        entry["partition"]: entry["position"]
        for entry in status.get("partitions") or ()
        if entry["topicId"] == topic_id
    }
    for partition, position in recorded.items():
        if known.get(partition, -1) < position:
            raise WentBack(f"partition {partition}: {known.get(partition)} where {position} was written")
