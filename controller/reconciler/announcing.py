"""What a person should look at, as a Kubernetes Event and a line in the log: an update held, failed or skipped, a
request that cannot be done, a suspension and its end.

Only transitions, and few: each Event is one more write to etcd. They are lost rather than waited for.
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

#: Of one stream: so many at once, and so many more each second.
BURST, PER_SECOND = 25, 1.0

#: What an update waits for that is suspended in one way or another, or cannot run for want of its stream.
_STOPPED = frozenset({Reason.SUSPENDED, Reason.STREAM_SUSPENDED, Reason.STREAM_MISSING})


class Announcer:
    """Tells as much as the stream's bucket allows; of what it does not, how much that was."""

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder
        self._bucket = TokenBucket(BURST, PER_SECOND)
        #: Transitions that the bucket did not allow to be told of since the last one that was.
        self._untold = 0

    def update_changed(self, update: UserUpdate, before: Status) -> None:
        """Announce an update whose status has just been written."""
        after = update.status
        if after.refused_request and after.refused_request != before.refused_request:
            note = f"{after.refused_request.request!r} is not done: {after.refused_request.message}"
            self._tell(update, "Warning", "RequestRefused", note)
        if told := transition(before, after):
            kind, reason = told
            self._tell(update, kind, reason, after.message)

    def postponed(self, update: UserUpdate, step: str, what: str, until: datetime) -> None:
        """Tell that something asked for waits for the call of `step` under way, which has ended at `until`."""
        note = f"{what} when the call of {step} under way has ended, at the latest at {until:%H:%M:%S} UTC"
        regarding = reference("UserUpdate", update.namespace, update.name, update.uid)
        self._announce(regarding, "Normal", "WaitsForCall", step, note)

    def stream_changed(self, stream: UpdateStream, before: UpdateStream) -> None:
        """Tell of users who were suspended or resumed in a stream; of the whole stream its conditions tell."""
        regarding = reference("UpdateStream", stream.namespace, stream.name, stream.uid)
        for word, users in (
            ("Suspended", stream.suspend.users - before.suspend.users),
            ("Resumed", before.suspend.users - stream.suspend.users),
        ):
            if users:
                self._announce(regarding, "Normal", word, "Processing", f"{word.lower()}: {len(users)} of its users")

    def _tell(self, update: UserUpdate, kind: EventType, reason: str, note: str) -> None:
        """The log has no `note`: it may repeat what the downstream said, and with that what is in the record."""
        status = update.status
        regarding = reference("UserUpdate", update.namespace, update.name, update.uid)
        if self._announce(regarding, kind, reason, status.step or "Finish", note):
            stream = names.namespaced_name(update.namespace, update.spec.stream)
            values: dict[str, object] = {
                "stream": stream,
                "update": update.name,
                "step": status.step,
                "reason": status.held or status.reason,
            }
            if reason == "RequestRefused" and status.refused_request:
                values["request"] = status.refused_request.request
            told = {key: value for key, value in values.items() if value is not None}
            if self._untold:
                told["untold"] = self._untold
            level = logging.WARNING if kind == "Warning" else logging.INFO
            logger.log(level, LINES[reason], extra=fields(**told))
            self._untold = 0

    def _announce(self, regarding: Body, kind: EventType, reason: str, action: str, note: str) -> bool:
        if self._bucket.empty:
            self._untold += 1
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
    """Type and reason of the Event that a change of status is worth; None: it is worth none."""
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
