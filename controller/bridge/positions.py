"""Where reading begins, and the entries of `UpdateStream.status.partitions`.

Pure. `position` in the status is the authority, the group's commit its mirror: a commit knows no topic id, so it
counts only where the status has no entry for the topic under any id. Where another id or partition of the topic is
known, a new one begins at its first offset, whatever `auto.offset.reset` says: so neither an expired group nor a topic
that was made again skips or repeats a record.

So entries of former ids stay; they leave only where the list would grow beyond its bound, the oldest first. The list is
in the order in which ids have come: what it says of one id before another is that the other came later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from controller.kafka import KafkaError, Topic, Watermarks

#: Entries of the list. The schema lets pass 5,000, and etcd an object of 1.5 MiB, of which one takes 0.3 to 0.4 KB.
MAX_ENTRIES = 3000


class Outdated(Exception):
    """The status says something else than this replica knows: reading begins anew, at what it says."""


class WentBack(Outdated):
    """The status knows less than was written to it: the API server was restored. What is in memory is worth nothing."""


class Overtaken(Outdated):
    """The status knows more than this replica: the partition's owner before it was heard of late, or a person.

    To go on below that position would create updates again that may be collected by now.
    """


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
    #: Records that UserBacklogs list: below the position, most of them, and so not in the lag.
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
    """No entry for the topic under any id: only then the group's commit decides."""
    return not status.get("partitions")


def starts(
    status: Mapping[str, Any],
    topic: Topic,
    ranges: Mapping[int, Watermarks],
    committed: Mapping[int, int],
    reset: str,
) -> dict[int, Start]:
    """Where to begin with each partition of `ranges`; `committed` is used only where `needs_commits`."""
    begun = known(status, topic.id)
    if needs_commits(status):
        begun = dict(committed)
        first: Callable[[Watermarks], int] = (lambda r: r.high) if reset == "latest" else (lambda r: r.low)
    else:
        first = lambda r: r.low  # noqa: E731
    return {number: _start(begun.get(number, first(there)), there) for number, there in ranges.items()}


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


def with_first_entries(status: Mapping[str, Any], topic_id: str, entries: Iterable[Entry]) -> dict[str, Any]:
    """The status with these entries, unless another replica was faster."""
    return with_entries(status, topic_id, entries) if needs_commits(status) else dict(status)


def _start(wanted: int, there: Watermarks) -> Start:
    if wanted < there.low:
        return Start(there.low, expired=(wanted, there.low - 1))
    return Start(wanted)


def with_entries(
    status: Mapping[str, Any], topic_id: str, entries: Iterable[Entry], *, certain: bool = False
) -> dict[str, Any]:
    """The status with these entries of the topic's present id in place of the older ones.

    `certain`: it has been the present id for so long that no broker which tells so can be behind the times. Then the
    ids that came before it are gone, and their entries say so. An id that came after it never is: whoever sees an old
    id is behind the times. Whoever sees an id as the present one takes back what its entries say.
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
    """The status with the records that wait in UserBacklogs, as the owners of all partitions have counted them."""
    entries = status.get("partitions") or ()
    records = sum(entry.get("backlog", 0) for entry in entries if entry["topicId"] == topic_id)
    return {**status, "backlog": {"records": records}}


def _marked(entry: dict[str, Any], present: str, gone: Set[str]) -> dict[str, Any]:
    if entry["topicId"] in gone:
        return {**entry, "gone": True}
    return {key: value for key, value in entry.items() if key != "gone" or entry["topicId"] != present}


def _bounded(entries: list[dict[str, Any]], present: str) -> list[dict[str, Any]]:
    """At most MAX_ENTRIES, without the oldest of former ids.

    Those of the present id and of the one before stay in any case: which of the two is present, a broker may be late to
    tell. Of each former id one entry stays for longest: as long as it says `gone`, what is left of that topic goes.
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
    """What the status says of these partitions beside what was written to it, and is to be written now.

    Raises WentBack where it has a lower position than was written, or none; Overtaken where it has a higher one than is
    to be written.
    """
    there = known(status, topic_id)
    for partition, position in recorded.items():
        if there.get(partition, -1) < position:
            raise WentBack(f"partition {partition}: {there.get(partition)} where {position} was written")
    for partition, position in proposed.items():
        if there.get(partition, position) > position:
            raise Overtaken(f"partition {partition}: {there[partition]} where {position} is to be written")


def known(status: Mapping[str, Any], topic_id: str) -> dict[int, int]:
    """Position of each partition of that topic id that is listed."""
    entries = status.get("partitions") or ()
    return {entry["partition"]: entry["position"] for entry in entries if entry["topicId"] == topic_id}
