"""A small history of a chaos run in which every guarantee holds; tests break it in one place each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from devenv.journal import STEPS, Call
from tests.chaos.history import History, Sample, Sighting, StoredRecord
from tests.chaos.records import update_name
from tests.chaos.workload import HandMade, SentRecord, Workload
from tests.support.records import GOOD, TOPIC_ID

START = 1_795_000_000_000_000_000
SECOND = 1_000_000_000
STREAM = "chaos"

#: User, and for a bad record its reason; in the order of the one partition.
RECORDS = (("ana", None), ("bob", None), ("ana", "NotJSON"), ("ana", None), ("bob", None))
REFUSED = ("bob", 4)
HAND_MADE = HandMade(3.0, "hand-made-0", "cleo", 1_000_000)


def name_of(offset: int) -> str:
    return update_name(STREAM, TOPIC_ID, 0, offset)


def workload() -> Workload:
    records = tuple(
        SentRecord(float(offset), 0, offset, user.encode(), b"{" if reason else json.dumps(GOOD).encode(), reason)
        for offset, (user, reason) in enumerate(RECORDS)
    )
    return Workload(
        partitions=1,
        records=records,
        hand_made=(HAND_MADE,),
        suspensions=(),
        rules=(),
        refused=frozenset({REFUSED}),
        spec={"limits": {"maxObjects": 10, "maxPerUser": 2}},
    )


def good_history() -> History:
    """Two calls a second, one update after the other; each step is seen recorded a tenth of a second after its call."""
    load = workload()
    updates = [_update(record.user, record.offset) for record in load.records if record.reason is None]
    updates.append(_hand_made())
    calls = list(_calls(updates))
    return History(
        workload=load,
        stream={"metadata": {"name": STREAM}, "status": {"partitions": [_entry(len(RECORDS))]}},
        topic_id=TOPIC_ID,
        records=tuple(StoredRecord(0, record.offset, record.key, record.value) for record in load.records),
        updates=tuple(updates),
        rejected=(_rejected(2, "NotJSON"),),
        calls=tuple(calls),
        sightings=tuple(_sightings(updates, calls)),
        samples=(_sample(1, 0), _sample(2, 3), _sample(60, 5)),
        released_ns=START + 100 * SECOND,
    )


def key_of(update: dict[str, Any], step: str) -> str:
    uid = () if update["spec"].get("source") else (update["metadata"]["uid"],)
    return "/".join(("ns", update["metadata"]["name"], *uid, step, "0"))


def _entry(position: int) -> dict[str, Any]:
    return {"topic": STREAM, "topicId": TOPIC_ID, "partition": 0, "position": position}


def _rejected(offset: int, reason: str) -> dict[str, Any]:
    source = {"topic": STREAM, "topicId": TOPIC_ID, "partition": 0, "offset": offset, "lastOffset": offset}
    spec = {"stream": STREAM, "reason": reason, "source": source, "count": 1}
    return {"metadata": {"name": name_of(offset)}, "spec": spec}


def _update(user: str, offset: int) -> dict[str, Any]:
    refused = (user, offset) == REFUSED
    source = {"topic": STREAM, "topicId": TOPIC_ID, "partition": 0, "offset": offset}
    return {
        "metadata": {"name": name_of(offset), "uid": f"uid-{offset}"},
        "spec": {"stream": STREAM, "user": user, "sequence": offset, **GOOD, "source": source},
        "status": {"phase": "Failed" if refused else "Succeeded", "steps": []},
    }


def _hand_made() -> dict[str, Any]:
    return {
        "metadata": {"name": HAND_MADE.name, "uid": "uid-hand"},
        "spec": {"stream": STREAM, "user": HAND_MADE.user, "sequence": HAND_MADE.sequence, **GOOD},
        "status": {"phase": "Succeeded", "steps": []},
    }


def _calls(updates: list[dict[str, Any]]) -> Iterator[Call]:
    ids = {"profile": {"userId": "u"}, "permissions": {"roleId": "r"}, "resources": {}}
    needs = {"profile": {}, "permissions": {"userId": "u"}, "resources": {"userId": "u", "roleId": "r"}}
    number = 0
    for update in updates:
        spec = update["spec"]
        for step in STEPS:
            number += 2
            refused = update["status"]["phase"] == "Failed" and step == "profile"
            begun = START + number * SECOND // 4
            yield Call(
                number=number,
                time_ns=begun,
                step=step,
                stream=STREAM,
                user=spec["user"],
                sequence=spec["sequence"],
                source=f"{TOPIC_ID}/0" if "source" in spec else "manual",
                key=key_of(update, step),
                body=needs[step],
                end=number + 1,
                end_time_ns=begun + SECOND // 10,
                status=422 if refused else 200,
                answer={} if refused else ids[step],
                applied=not refused,
            )
            if refused:
                break


def _sightings(updates: list[dict[str, Any]], calls: list[Call]) -> Iterator[Sighting]:
    names = {key_of(update, step): update for update in updates for step in STEPS}
    done: dict[str, tuple[str, ...]] = {}
    for call in calls:
        update = names[call.key or ""]
        name, uid = update["metadata"]["name"], update["metadata"]["uid"]
        seen = done.get(name, ())
        if not seen:
            yield Sighting(call.time_ns - SECOND // 8, name, uid, call.user)
        done[name] = (*seen, call.step) if call.succeeded else seen
        phase = {3: "Succeeded"}.get(len(done[name]), "Running") if call.succeeded else "Failed"
        yield Sighting((call.end_time_ns or 0) + SECOND // 10, name, uid, call.user, phase=phase, steps=done[name])


def _sample(second: int, position: int) -> Sample:
    return Sample(
        time_ns=START + second * SECOND,
        positions={(TOPIC_ID, 0): position},
        updates=frozenset(name_of(offset) for offset in range(position) if RECORDS[offset][1] is None),
        unfinished=1,
        rejected=tuple((0, offset, offset) for offset in range(position) if RECORDS[offset][1] is not None),
    )
