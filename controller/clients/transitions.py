"""Reports each transition of a stream's condition once, as a log line and a Kubernetes Event.

A transition is a change of the condition's status or reason, not of its message. The process that writes a transition
to the API server reports it, so a restart repeats nothing and one of several replicas reports. Where a condition flaps,
some transitions are reported, and after that its state once a minute.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.api import names
from controller.clients.event_recorder import EventRecorder, EventType, TokenBucket, reference
from controller.logs import fields

logger = logging.getLogger(__name__)

#: Transitions of one condition that are reported at once, and the seconds between further reports.
BURST, SECONDS = 6, 60.0
#: Characters of a message in the log. The object has the whole message.
MAX_LOGGED = 500
#: Reasons whose message may repeat a downstream's answer, and so a record's content, after its third colon.
_REPEATS_ANSWERS = frozenset({"Processing", "StepMisconfigured", "StepFailing"})
#: Reasons of a condition that is False because a person wants it to be.
WANTED = frozenset({"Suspended"})


@dataclass(slots=True)
class _Condition:
    """The last report about a condition, and its present state."""

    #: (status, reason).
    reported: tuple[str, str] | None
    now: Mapping[str, Any]
    #: Transitions that were not reported since.
    unreported: int = 0
    bucket: TokenBucket = field(default_factory=lambda: TokenBucket(BURST, 1 / SECONDS))
    timer: asyncio.TimerHandle | None = None


class Transitions:
    """The transitions of one stream's conditions that this process writes."""

    def __init__(self, recorder: EventRecorder, namespace: str, name: str, uid: str) -> None:
        self._recorder = recorder
        self._stream = names.namespaced_name(namespace, name)
        self._regarding = reference("UpdateStream", namespace, name, uid)
        self._conditions: dict[str, _Condition] = {}

    def written(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """The status was `before`, and this process has just written `after`."""
        old, new = conditions(before), conditions(after)
        for kind in ("Consuming", "Processing"):
            if kind in new and _key(old.get(kind)) != _key(new[kind]):
                self._changed(kind, _key(old.get(kind)), new[kind])

    def _changed(self, kind: str, old: tuple[str, str] | None, new: Mapping[str, Any]) -> None:
        known = self._conditions.setdefault(kind, _Condition(old, new))
        known.now = new
        if known.timer is None and not known.bucket.empty:
            known.reported = old  # another process may have reported transitions in between
            self._report(kind, known)
        else:
            known.unreported += 1
            known.timer = known.timer or asyncio.get_running_loop().call_later(SECONDS, self._report_later, kind)

    def _report_later(self, kind: str) -> None:
        known = self._conditions[kind]
        known.timer = None
        if _key(known.now) != known.reported:
            self._report(kind, known)
        known.unreported = 0

    def _report(self, kind: str, known: _Condition) -> None:
        status, reason, message = known.now["status"], known.now["reason"], known.now["message"]
        well = status == "True" or reason in WANTED
        values = {"stream": self._stream, "condition": kind, "status": status, "reason": reason}
        if known.reported:
            values["before"] = known.reported[1]
        if known.unreported:
            values["untold"] = known.unreported
        logged = ":".join(message.split(":")[:3]) if kind == "Processing" and reason in _REPEATS_ANSWERS else message
        logger.log(
            logging.INFO if well else logging.WARNING,
            "Condition of a stream changed",
            extra=fields(**values, message=logged[:MAX_LOGGED]),
        )
        event: EventType = "Normal" if well else "Warning"
        self._recorder.event(self._regarding, event, reason, kind, f"{kind}={status}: {message}")
        known.bucket.take()
        known.reported, known.unreported = _key(known.now), 0


def conditions(status: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The conditions in a stream's status, by type."""
    return {entry["type"]: entry for entry in status.get("conditions") or ()}


def _key(condition: Mapping[str, Any] | None) -> tuple[str, str] | None:
    return (condition["status"], condition["reason"]) if condition else None
