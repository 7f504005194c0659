"""Kubernetes Events and lines in the log for what a person should look at.

These are: an update is held, failed, skipped or cancelled, a request cannot be done, a suspension begins or ends. Only
transitions have Events, and few of them: each Event is one more write to etcd. Nothing waits for an Event, which may be
lost.
"""

from __future__ import annotations

import logging
from datetime import datetime

from controller.api import names
from controller.api.update_stream import UpdateStream
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Phase, Reason, Status
from controller.clients.cluster import Body
from controller.clients.event_recorder import EventRecorder, EventType, TokenBucket, reference
from controller.logs import fields

logger = logging.getLogger(__name__)

#: Events that one stream may have at once, and how many more each second.
BURST, PER_SECOND = 25, 1.0

#: Reasons of an update that is suspended in one way or another, or whose stream is missing.
_STOPPED = frozenset({Reason.SUSPENDED, Reason.STREAM_SUSPENDED, Reason.STREAM_MISSING})


class UpdateEvents:
    """Writes as many Events and lines as the stream's token bucket allows, and counts the others."""

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder
        self._bucket = TokenBucket(BURST, PER_SECOND)
        #: Transitions since the last one with an Event, for which the token bucket had no token.
        self._without_event = 0

    def update_changed(self, update: UserUpdate, before: Status) -> None:
        """The status of an update was written; `before` is the one that it replaced."""
        after = update.status
        if after.refused_request and after.refused_request != before.refused_request:
            note = f"{after.refused_request.request!r} is not done: {after.refused_request.message}"
            self._record(update, "Warning", "RequestRefused", note)
        if found := transition(before, after):
            kind, reason = found
            self._record(update, kind, reason, after.message)

    def postponed(self, update: UserUpdate, step: str, what: str, until: datetime) -> None:
        """A request has to wait for the call of `step` that is under way, and that ends at `until` at the latest."""
        note = f"{what} when the call of {step} under way has ended, at the latest at {until:%H:%M:%S} UTC"
        regarding = reference("UserUpdate", update.namespace, update.name, update.uid)
        self._event(regarding, "Normal", "WaitsForCall", step, note)

    def stream_changed(self, stream: UpdateStream, before: UpdateStream) -> None:
        """The spec was changed: users may be suspended or resumed. Conditions show a suspension of the whole stream."""
        regarding = reference("UpdateStream", stream.namespace, stream.name, stream.uid)
        for word, users in (
            ("Suspended", stream.suspend.users - before.suspend.users),
            ("Resumed", before.suspend.users - stream.suspend.users),
        ):
            if users:
                self._event(regarding, "Normal", word, "Processing", f"{word.lower()}: {len(users)} of its users")

    def _record(self, update: UserUpdate, kind: EventType, reason: str, note: str) -> None:
        """The log does not get the `note`: it may repeat what the downstream said, and so what is in the record."""
        status = update.status
        regarding = reference("UserUpdate", update.namespace, update.name, update.uid)
        if self._event(regarding, kind, reason, status.step or "Finish", note):
            stream = names.namespaced_name(update.namespace, update.spec.stream)
            values: dict[str, object] = {
                "stream": stream,
                "update": update.name,
                "step": status.step,
                "reason": status.held or status.reason,
            }
            if reason == "RequestRefused" and status.refused_request:
                values["request"] = status.refused_request.request
            shown = {key: value for key, value in values.items() if value is not None}
            if self._without_event:
                shown["untold"] = self._without_event
            level = logging.WARNING if kind == "Warning" else logging.INFO
            logger.log(level, LINES[reason], extra=fields(**shown))
            self._without_event = 0

    def _event(self, regarding: Body, kind: EventType, reason: str, action: str, note: str) -> bool:
        if self._bucket.empty:
            self._without_event += 1
            return False
        self._bucket.take()
        self._recorder.event(regarding, kind, reason, action, note)
        return True


#: Lines of the log, by the reason of their Event.
LINES = {
    "Held": "Update held",
    "Failed": "Update failed",
    "Skipped": "Update skipped",
    "Cancelled": "Update cancelled",
    "Suspended": "Update suspended",
    "Resumed": "Update resumed",
    "RequestRefused": "Request for an update not done",
}


def transition(before: Status, after: Status) -> tuple[EventType, str] | None:
    """Type and reason of the Event for a change of status; None: there is none."""
    if after.reason is before.reason:
        return None
    if after.reason is Reason.HELD:
        return "Warning", "Held"
    if after.phase is Phase.FAILED:
        return "Warning", "Failed"
    if after.phase in (Phase.SKIPPED, Phase.CANCELLED):
        return "Normal", after.phase.value
    if after.reason is Reason.SUSPENDED:
        return "Normal", "Suspended"
    if before.reason is Reason.SUSPENDED and after.reason not in _STOPPED:
        return "Normal", "Resumed"
    return None
