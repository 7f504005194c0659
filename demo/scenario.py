"""The data of the demo: the records that it sends, and the rules by which the downstream misbehaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

TOPIC = "user-updates"
STREAM = "user-updates"
NAMESPACE = "default"

FIRST_USERS = ("userid1", "userid2")
BURST_USERS = tuple(f"userid{number}" for number in range(3, 23))
EVENTS_EACH = 4
#: The downstream is not ready for this user until all others are done.
BUSY_USER = "userid5"
#: The downstream fails twice for this one.
FAILING_USER = "userid8"
FAILURES = 2
#: Seconds that the downstream takes for a call.
LATENCY = 0.2
#: Seconds after which a busy step is tried again: what the stream has as its default.
BUSY_DELAY = 5.0


@dataclass(frozen=True, slots=True)
class Record:
    """A record to send. The topic has one partition."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that can never become an update, and the RejectedEvent that must show it."""

    record: Record
    reason: str
    pointer: str | None


EVENT = {"profile": "dev", "permissions": "all", "resources": "all"}

#: One that is cut off, one that lacks a field.
BAD_RECORDS = (
    BadRecord(Record(b"userid3", b'{"profile": "dev", "permi'), "NotJSON", None),
    BadRecord(Record(b"userid4", b'{"profile": "dev", "permissions": "all"}'), "InvalidPayload", "/resources"),
)


def first_records() -> list[Record]:
    """One event for each of the first users."""
    return [_record(user, EVENT) for user in FIRST_USERS]


def burst_records() -> list[Record]:
    """Several events for each of the other users, in turns, with the bad records in between."""
    return list(_burst())


def _burst() -> Iterator[Record]:
    bad = iter(BAD_RECORDS)
    for number in range(1, EVENTS_EACH + 1):
        for user in BURST_USERS:
            yield _record(user, {**EVENT, "profile": f"dev-{number}"})
        if number <= len(BAD_RECORDS):
            yield next(bad).record


def rules(*, busy: bool) -> dict[str, Any]:
    """Rules of the sample downstream; with `busy` it is not ready for one user."""
    waiting = {"name": "not-ready", "user": BUSY_USER, "step": "profile", "action": "busy"}
    failing = {"name": "fails", "user": FAILING_USER, "step": "permissions", "action": "fail", "count": FAILURES}
    return {"latencySeconds": LATENCY, "rules": [waiting, failing] if busy else []}


def _record(user: str, event: dict[str, str]) -> Record:
    return Record(user.encode(), json.dumps(event).encode())
