"""What the downstream of the benchmarks answers. Each event has a number, at the end of its `resources` text, by which
the time of its last call is told.

POST /control   {"latencySeconds": 0, "busyUsers": 0, "busySeconds": 0}: forgets all calls and behaves so from now on;
                the first so many users (`u0`, `u1`, …) are told 503 for so long
GET  /count     how many last calls were answered
GET  /report    {"first": …, "calls": …, "busy": …, "last": {event: …}}: monotonic times of the machine, in seconds
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import orjson

#: The id that each step returns; the third returns none.
ANSWERS = {b"/profile": b'{"userId":"u-%d"}', b"/permissions": b'{"roleId":"r-%d"}', b"/resources": b"{}"}


@dataclass(slots=True)
class Record:
    """What was called since the last /control."""

    latency: float = 0.0
    busy_users: int = 0
    busy_until: float = 0.0
    first: float | None = None
    calls: int = 0
    busy: int = 0
    #: Monotonic time of the last call, by the event's number.
    last: dict[int, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, control: dict[str, Any]) -> Record:
        until = time.monotonic() + control.get("busySeconds", 0.0)
        return cls(control.get("latencySeconds", 0.0), control.get("busyUsers", 0), until)

    def is_busy(self, user: str | None) -> bool:
        """`user` is what the headers or the first step's body say."""
        return bool(self.busy_users) and user is not None and int(user.lstrip("u")) < self.busy_users

    def report(self) -> dict[str, Any]:
        last = {str(event): at for event, at in self.last.items()}
        return {"first": self.first, "calls": self.calls, "busy": self.busy, "last": last}


class Server:
    def __init__(self) -> None:
        self.record = Record()

    def answer(self, path: bytes, body: bytes) -> tuple[int, bytes, float]:
        """Status, body and latency in seconds."""
        if path in ANSWERS:
            return self._step(path, orjson.loads(body))
        if path == b"/control":
            self.record = Record.begin(orjson.loads(body))
            return 200, b"{}", 0.0
        if path == b"/count":
            return 200, b"%d" % len(self.record.last), 0.0
        if path == b"/report":
            return 200, orjson.dumps(self.record.report()), 0.0
        return 404, b"{}", 0.0

    def _step(self, path: bytes, body: dict[str, str]) -> tuple[int, bytes, float]:
        record, now = self.record, time.monotonic()
        record.calls += 1
        record.first = record.first or now
        if path == b"/profile":
            if now < record.busy_until and record.is_busy(body["user"]):
                record.busy += 1
                return 503, b"{}", record.latency
            return 200, ANSWERS[path] % record.calls, record.latency
        if path == b"/resources":
            record.last[int(body["resources"].rpartition("-")[2])] = now
            return 200, ANSWERS[path], record.latency
        return 200, ANSWERS[path] % record.calls, record.latency
