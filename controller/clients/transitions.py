"""Each change of a stream's condition, of its status or its reason, is a line in the log and a Kubernetes Event, once.

Whoever writes the change tells of it. So a restart repeats nothing, and of several replicas one tells. A changed
message is no change, and of a condition that flaps some changes are told of, then where it stands once a minute.
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

#: Changes of one condition that are told of as they come; then one in so many seconds.
BURST, SECONDS = 6, 60.0
#: Characters of a message in the log; the object has the whole.
MAX_LOGGED = 500
#: Reasons whose message may repeat what a downstream said, and with that what is in a record: behind its third colon.
_SAID = frozenset({"Processing", "StepMisconfigured", "StepFailing"})
#: Reasons of a condition that is False because a person wants it so.
WANTED = frozenset({"Suspended"})


@dataclass(slots=True)
class _Condition:
    """What was told of it last, (status, reason), and how it stands."""

    told: tuple[str, str] | None
    now: Mapping[str, Any]
    untold: int = 0
    bucket: TokenBucket = field(default_factory=lambda: TokenBucket(BURST, 1 / SECONDS))
    timer: asyncio.TimerHandle | None = None


class Transitions:
    """Of one stream, as one process writes them."""

    def __init__(self, recorder: EventRecorder, namespace: str, name: str, uid: str) -> None:
        self._recorder = recorder
        self._stream = names.namespaced_name(namespace, name)
        self._regarding = reference("UpdateStream", namespace, name, uid)
        self._conditions: dict[str, _Condition] = {}

    def written(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """The status was `before`, and `after` has just been written."""
        old, new = conditions(before), conditions(after)
        for kind in ("Consuming", "Processing"):
            if kind in new and _key(old.get(kind)) != _key(new[kind]):
                self._changed(kind, _key(old.get(kind)), new[kind])

    def _changed(self, kind: str, old: tuple[str, str] | None, new: Mapping[str, Any]) -> None:
        known = self._conditions.setdefault(kind, _Condition(old, new))
        known.now = new
        if known.timer is None and not known.bucket.empty:
            known.told = old  # another process may have told of what lies between
            self._tell(kind, known)
        else:
            known.untold += 1
            known.timer = known.timer or asyncio.get_running_loop().call_later(SECONDS, self._tell_late, kind)

    def _tell_late(self, kind: str) -> None:
        known = self._conditions[kind]
        known.timer = None
        if _key(known.now) != known.told:
            self._tell(kind, known)
        known.untold = 0

    def _tell(self, kind: str, known: _Condition) -> None:
        status, reason, message = known.now["status"], known.now["reason"], known.now["message"]
        well = status == "True" or reason in WANTED
        values = {"stream": self._stream, "condition": kind, "status": status, "reason": reason}
        if known.told:
            values["before"] = known.told[1]
        if known.untold:
            values["untold"] = known.untold
        logged = ":".join(message.split(":")[:3]) if kind == "Processing" and reason in _SAID else message
        logger.log(
            logging.INFO if well else logging.WARNING,
            "Condition of a stream changed",
            extra=fields(**values, message=logged[:MAX_LOGGED]),
        )
        event: EventType = "Normal" if well else "Warning"
        self._recorder.event(self._regarding, event, reason, kind, f"{kind}={status}: {message}")
        known.bucket.take()
        known.told, known.untold = _key(known.now), 0


def conditions(status: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Those of a stream's status, by type."""
    return {entry["type"]: entry for entry in status.get("conditions") or ()}


def _key(condition: Mapping[str, Any] | None) -> tuple[str, str] | None:
    return (condition["status"], condition["reason"]) if condition else None
