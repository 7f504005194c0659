"""Where reading begins, and the entries of `UpdateStream.status.partitions`.

Pure. `position` in the status is the authority, and the group's committed offset mirrors it. A committed offset names
no topic id, so it counts only where the status has no entry for the topic under any id. Where the status knows another
id or another partition of the topic, a new one begins at its first offset, whatever `auto.offset.reset` says. So
neither a group that has expired nor a topic that was made again skips or repeats a record
(docs/decisions/0042-topic-identity.md).

Entries of former ids therefore stay. They leave only where the list would grow beyond its bound, the oldest first. The
list is in the order in which the ids have appeared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from controller.kafka import KafkaError, Topic, Watermarks

#: Entries of the list at most. The schema allows 5,000; etcd takes an object of 1.5 MiB, and an entry 0.3 to 0.4 KB.
MAX_ENTRIES = 3000


class Outdated(Exception):
    """The status contradicts what this replica knows. Reading begins anew, at the positions in the status."""


class WentBack(Outdated):
    """A position in the status is lower than what was written: the API server was restored from a backup."""


class Overtaken(Outdated):
    """A position in the status is higher than this replica's: another replica has written it late, or a person.

    To go on below that position would create updates again that may have been collected.
    """


@dataclass(frozen=True, slots=True)
class Start:
    """Where the reading of a partition begins."""

    offset: int
    #: Records below `offset` that Kafka removed before they were read, from the first to the last; None: none.
    expired: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the list: how far a partition is done."""

    topic: str
    topic_id: str
    partition: int
    position: int
    committed: int | None = None
    lag: int | None = None
    #: Records that UserBacklogs list. Most of them lie below the position, so the lag does not count them.
    backlog: int | None = None

    def for_status(self) -> dict[str, Any]:
        optional = {"committed": self.committed, "lag": self.lag, "backlog": self.backlog}
        return {
            "topic": self.topic,
            "topicId": self.topic_id,
            "partition": self.partition,
            "position": self.position,
            **{name: value for name, value in optional.items() if value is not None},
        }


def needs_commits(status: Mapping[str, Any]) -> bool:
    """The status has no entry for the topic under any id. Only then do the group's committed offsets count."""
    return not status.get("partitions")


def starts(
    status: Mapping[str, Any],
    topic: Topic,
    watermarks: Mapping[int, Watermarks],
    committed: Mapping[int, int],
    reset: str,
) -> dict[int, Start]:
    """Where to begin with each partition of `watermarks`. `committed` is used only where `needs_commits`."""
    begun = known(status, topic.id)
    if needs_commits(status):
        begun = dict(committed)
        first: Callable[[Watermarks], int] = (lambda r: r.high) if reset == "latest" else (lambda r: r.low)
    else:
        first = lambda r: r.low  # noqa: E731
    return {number: _start(begun.get(number, first(there)), there) for number, there in watermarks.items()}


def moved(status: Mapping[str, Any], topic: Topic, commits: Mapping[int, int]) -> list[str]:
    """Which of the group's committed offsets somebody else has set, for people.

    The bridge commits a `position` that is in the status, and writes the accepted offset as `committed` later. So an
    offset that the bridge has committed lies between the two.
    """
    return [
        f"partition {entry['partition']} at {commit}, not {entry.get('committed', entry['position'])}"
        for entry in status.get("partitions") or ()
        if entry["topicId"] == topic.id and (commit := commits.get(entry["partition"])) is not None
        if not entry.get("committed", 0) <= commit <= entry["position"]
    ]


def first_entries(topic: Topic, begun: Mapping[int, Start]) -> list[Entry]:
    """The first entries of a stream: those of all partitions at once.

    They are written together, because committed offsets do not count any more once there is an entry.
    """
    return [
        Entry(topic.name, topic.id, number, start.expired[0] if start.expired else start.offset)
        for number, start in begun.items()
    ]


def with_first_entries(status: Mapping[str, Any], topic_id: str, entries: Iterable[Entry]) -> dict[str, Any]:
    """The status with these entries, unless it has entries already: another replica was faster."""
    return with_entries(status, topic_id, entries) if needs_commits(status) else dict(status)


def _start(wanted: int, there: Watermarks) -> Start:
    if wanted < there.low:
        return Start(there.low, expired=(wanted, there.low - 1))
    return Start(wanted)


def with_entries(
    status: Mapping[str, Any], topic_id: str, entries: Iterable[Entry], *, certain: bool = False
) -> dict[str, Any]:
    """The status with these entries of the topic's present id in place of the older ones.

    `certain`: the topic has had this id for so long that no broker which says so can be out of date. Then the ids that
    came before it are gone, and their entries are marked so. An id that came after it is never marked: a replica that
    still sees the older id is out of date. A replica that sees an id as the present one removes the mark.
    """
    merged = {(entry["topicId"], entry["partition"]): entry for entry in status.get("partitions") or ()}
    for entry in entries:
        key = (entry.topic_id, entry.partition)
        merged[key] = {**merged.get(key, {}), **entry.for_status()}
    ids = list(dict.fromkeys(each for each, _ in merged))
    before = set(ids[: ids.index(topic_id)]) if topic_id in ids else set()
    marked = [_marked(entry, topic_id, before if certain else set()) for entry in merged.values()]
    return {**status, "partitions": _bounded(marked, topic_id)}


def with_backlog(status: Mapping[str, Any], topic_id: str) -> dict[str, Any]:
    """The status with the sum of the records in UserBacklogs, as counted by the replicas that have the partitions."""
    entries = status.get("partitions") or ()
    records = sum(entry.get("backlog", 0) for entry in entries if entry["topicId"] == topic_id)
    return {**status, "backlog": {"records": records}}


def _marked(entry: dict[str, Any], present: str, gone: Set[str]) -> dict[str, Any]:
    if entry["topicId"] in gone:
        return {**entry, "gone": True}
    return {key: value for key, value in entry.items() if key != "gone" or entry["topicId"] != present}


def _bounded(entries: list[dict[str, Any]], present: str) -> list[dict[str, Any]]:
    """At most MAX_ENTRIES entries: the oldest ones of former ids leave.

    Those of the present id and of the one before it stay in any case, as a broker may be late to say which of the two
    is the present one. One entry of each former id stays longest: while it says `gone`, the finished updates of that
    topic are collected.
    """
    surplus = len(entries) - MAX_ENTRIES
    if surplus <= 0:
        return entries
    former = [each for each in dict.fromkeys(entry["topicId"] for entry in entries) if each != present][:-1]
    first: set[str] = set()
    order: list[tuple[bool, int]] = []
    for index, entry in enumerate(entries):
        if (topic_id := entry["topicId"]) in former:
            order.append((topic_id not in first, index))
            first.add(topic_id)
    leaving = {index for _, index in sorted(order)[:surplus]}
    return [entry for index, entry in enumerate(entries) if index not in leaving]


def check_room(status: Mapping[str, Any], topic: Topic) -> None:
    """Raises KafkaError where the list cannot hold the topic's partitions beside those of the id before it."""
    ids = Counter(entry["topicId"] for entry in status.get("partitions") or ())
    former = [topic_id for topic_id in ids if topic_id != topic.id]
    before = ids[former[-1]] if former else 0
    if topic.partitions + before > MAX_ENTRIES:
        beside = f", beside the {before} of the topic of its name before it" if before else ""
        message = (
            f"topic {topic.name} has {topic.partitions} partitions{beside}: the status holds {MAX_ENTRIES};"
            " nothing is read. Use a topic with fewer partitions"
        )
        raise KafkaError("TooManyPartitions", message)


def check_known(
    status: Mapping[str, Any], topic_id: str, recorded: Mapping[int, int], proposed: Mapping[int, int]
) -> None:
    """Compare the status with what was written to it (`recorded`), and with what is to be written (`proposed`).

    Raises WentBack where the status has a lower position than was written, or none; Overtaken where it has a higher one
    than is to be written.
    """
    there = known(status, topic_id)
    for partition, position in recorded.items():
        if there.get(partition, -1) < position:
            raise WentBack(f"partition {partition}: {there.get(partition)} where {position} was written")
    for partition, position in proposed.items():
        if there.get(partition, position) > position:
            raise Overtaken(f"partition {partition}: {there[partition]} where {position} is to be written")


def known(status: Mapping[str, Any], topic_id: str) -> dict[int, int]:
    """The positions in the status, by partition of that topic id."""
    entries = status.get("partitions") or ()
    return {entry["partition"]: entry["position"] for entry in entries if entry["topicId"] == topic_id}
