"""Each record of Kafka against the objects of the API server: exactly one, and the right one. Pure."""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tests.chaos.history import Body, History, Sample
from tests.chaos.workload import SentRecord

_FIELDS = ("profile", "permissions", "resources")


def update_name(stream: str, topic_id: str, partition: int, offset: int) -> str:
    """The name that the contract promises for a record's UserUpdate."""
    digits = base64.urlsafe_b64decode(topic_id + "==").hex()[:6]
    return f"{stream}-{digits}-p{partition:05d}-{offset:019d}"


def waiting_offsets(text: str) -> Iterator[int]:
    """The offsets that a UserBacklog names: differences as base-128 numbers, low digits first, in base64."""
    offset = step = shift = 0
    for digit in base64.b64decode(text):
        step |= (digit & 0x7F) << shift
        shift += 7
        if digit < 0x80:
            offset += step
            yield offset
            step = shift = 0


def check(history: History) -> Iterator[str]:
    """All breaches of: nothing lost, nothing doubled."""
    yield from _stored(history)
    yield from _updates(history)
    yield from _strangers(history)
    yield from _rejected(history)
    yield from _twice(history)
    yield from _positions(history)
    yield from _covered(history)


def _name(history: History, record: SentRecord) -> str:
    return update_name(history.stream["metadata"]["name"], history.topic_id, record.partition, record.offset)


def _stored(history: History) -> Iterator[str]:
    """Kafka has what was sent: else the run, not the bridge, is at fault."""
    stored = {(record.partition, record.offset): (record.key, record.value) for record in history.records}
    for record in history.workload.records:
        if stored.pop((record.partition, record.offset), ("nothing",)) != (record.key, record.value):
            yield f"Kafka has not the record that was sent as {record.partition}/{record.offset}"
    for partition, offset in stored:
        yield f"Kafka has a record {partition}/{offset} that was not sent"


def _updates(history: History) -> Iterator[str]:
    """Each good record's update is there, says what the record says, and has ended as it must."""
    there = {update["metadata"]["name"]: update for update in history.updates}
    for record in history.workload.records:
        if record.reason is not None:
            continue
        name = _name(history, record)
        update = there.get(name)
        if update is None:
            yield f"the record {record.partition}/{record.offset} of {record.user} has no UserUpdate {name}"
            continue
        yield from (f"{name}: {wrong}" for wrong in _wrong(record, update, history))
    for each in history.workload.hand_made:
        update = there.get(each.name)
        if update is None or _phase(update) != "Succeeded":
            yield f"the hand-made {each.name} is {_phase(update) if update else 'gone'}, not Succeeded"


def _wrong(record: SentRecord, update: Body, history: History) -> Iterator[str]:
    spec, sent = update["spec"], json.loads(record.value or b"{}")
    wanted = {"user": record.user, "sequence": record.offset, **{field: sent[field] for field in _FIELDS}}
    for field, value in wanted.items():
        if spec.get(field) != value:
            yield f"{field} is {spec.get(field)!r}, the record says {value!r}"
    source = spec.get("source") or {}
    if (source.get("partition"), source.get("offset")) != (record.partition, record.offset):
        yield f"its source is {source.get('partition')}/{source.get('offset')}"
    refused = (record.user, record.offset) in history.workload.refused
    if _phase(update) != (ended := "Failed" if refused else "Succeeded"):
        yield f"is {_phase(update)}, not {ended}: {_condition(update)}"


def _strangers(history: History) -> Iterator[str]:
    """No update has a source in which there is no good record."""
    good = {_name(history, record) for record in history.workload.records if record.reason is None}
    for update in history.updates:
        name = update["metadata"]["name"]
        if update["spec"].get("source") and name not in good:
            yield f"{name} came of no good record"


def _rejected(history: History) -> Iterator[str]:
    """Each bad record is shown once, with its reason; no good one is."""
    bad = {
        (record.partition, record.offset): record.reason
        for record in history.workload.records
        if record.reason is not None
    }
    shown: Counter[tuple[int, str]] = Counter()
    covering: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
    for body in history.rejected:
        spec, source = body["spec"], body["spec"]["source"]
        kind = (source["partition"], spec["reason"])
        first, last = source["offset"], source.get("lastOffset", source["offset"])
        shown[kind] += spec["count"]
        covering[kind].append((first, last))
        for offset in {first, last}:
            if bad.get((source["partition"], offset)) != spec["reason"]:
                yield f"the RejectedEvent {body['metadata']['name']} shows {source['partition']}/{offset} as {kind[1]}"
    for (partition, offset), reason in bad.items():
        if not any(first <= offset <= last for first, last in covering[partition, reason]):
            yield f"the bad record {partition}/{offset} is not shown as {reason}"
    wanted = Counter((partition, reason) for (partition, _), reason in bad.items())
    for partition, reason in wanted:
        if shown[partition, reason] != wanted[partition, reason]:
            counts = f"{shown[partition, reason]} instead of {wanted[partition, reason]}"
            yield f"RejectedEvents count {counts} records of partition {partition} as {reason}"


def _twice(history: History) -> Iterator[str]:
    """A record becomes one UserUpdate: never a second object of its name."""
    uids: dict[str, set[str]] = defaultdict(set)
    for seen in history.sightings:
        uids[seen.name].add(seen.uid)
    for name, found in uids.items():
        if len(found) > 1:
            yield f"{name} was made {len(found)} times"


def _positions(history: History) -> Iterator[str]:
    """A position never goes back, and at the end it is at the end."""
    for earlier, later in pairwise(history.samples):
        for key, position in earlier.positions.items():
            if later.positions.get(key, -1) < position:
                yield f"the position of partition {key[1]} went from {position} to {later.positions.get(key)}"
    entries: list[dict[str, Any]] = (history.stream.get("status") or {}).get("partitions") or []
    reached = {entry["partition"]: entry["position"] for entry in entries if entry["topicId"] == history.topic_id}
    ends = Counter(record.partition for record in history.workload.records)
    for partition, end in sorted(ends.items()):
        if reached.get(partition) != end:
            yield f"the position of partition {partition} is {reached.get(partition)} at the end, not {end}"


def _covered(history: History) -> Iterator[str]:
    """Below a position that was seen, everything is a UserUpdate or a RejectedEvent, or was, or is in a UserBacklog."""
    ever: set[str] = set()
    sightings = iter(history.sightings)
    seen = next(sightings, None)
    for sample in history.samples:
        while seen is not None and seen.time_ns <= sample.time_ns:
            ever.add(seen.name)
            seen = next(sightings, None)
        missing = _missing(history, sample, ever)
        if missing:
            yield f"below a position that was seen, {len(missing)} records were nothing yet, {missing[0]} for one"


def _missing(history: History, sample: Sample, ever: set[str]) -> list[str]:
    found = []
    positions = {partition: at for (topic, partition), at in sample.positions.items() if topic == history.topic_id}
    for record in history.workload.records:
        if record.offset >= positions.get(record.partition, 0):
            continue
        if record.reason is None:
            name = _name(history, record)
            covered = name in sample.updates or name in ever
        else:
            covered = any(
                partition == record.partition and first <= record.offset <= last
                for partition, first, last in sample.rejected
            )
        if not covered and (record.partition, record.offset) not in sample.backlogged:
            found.append(f"{record.partition}/{record.offset}")
    return found


def _phase(update: Body) -> str:
    return str((update.get("status") or {}).get("phase") or "queued")


def _condition(update: Body) -> str:
    conditions = (update.get("status") or {}).get("conditions") or [{}]
    return f"{conditions[0].get('reason')}: {conditions[0].get('message')}"
