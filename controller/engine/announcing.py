"""Kubernetes Events for what a person should look at: an update held or failed, a suspension and its end.

Only transitions, and few: each is one more write to etcd. They are lost rather than waited for.
"""

from __future__ import annotations

import time
from typing import Literal

from controller.cluster import Body, Cluster
from controller.recorder import EventRecorder, reference
from controller.streams import UpdateStream
from controller.updates import Phase, Reason, Status, UserUpdate

#: Events of one stream: so many at once, and so many more each second.
BURST, PER_SECOND = 25, 1.0
#: Events of all streams of a process together.
PROCESS_BURST, PROCESS_PER_SECOND = 100, 10.0


class TokenBucket:
    """So many at once, and so many more each second, as client-go's flowcontrol has it."""

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst = self._tokens = burst
        self._per_second = per_second
        self._filled = time.monotonic()

    @property
    def empty(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._per_second)
        self._filled = now
        return self._tokens < 1

    def take(self) -> None:
        self._tokens -= 1


class Announcer:
    """Writes Events in the background, as many as the stream's bucket allows, and that of the whole process."""

    def __init__(self, cluster: Cluster, identity: str, process: TokenBucket) -> None:
        self._recorder = EventRecorder(cluster, "controller", identity)
        self._buckets = TokenBucket(BURST, PER_SECOND), process

    def update_changed(self, update: UserUpdate, before: Status) -> None:
        """Announce an update whose status has just been written."""
        after = update.status
        if told := transition(before, after):
            kind, reason = told
            regarding = reference("UserUpdate", update.namespace, update.name, update.uid)
            self._announce(regarding, kind, reason, after.step or "Finish", after.message)

    def stream_changed(self, stream: UpdateStream, before: UpdateStream) -> None:
        """Tell of a stream whose processing or users were suspended or resumed."""
        regarding = reference("UpdateStream", stream.namespace, stream.name, stream.uid)
        if stream.suspend.processing != before.suspend.processing:
            reason = "Suspended" if stream.suspend.processing else "Resumed"
            self._announce(regarding, "Normal", reason, "Processing", f"processing {reason.lower()}")
        for word, users in (
            ("Suspended", stream.suspend.users - before.suspend.users),
            ("Resumed", before.suspend.users - stream.suspend.users),
        ):
            if users:
                self._announce(regarding, "Normal", word, "Processing", f"{word.lower()} for {len(users)} users")

    def _announce(
        self, regarding: Body, kind: Literal["Normal", "Warning"], reason: str, action: str, note: str
    ) -> None:
        if any(bucket.empty for bucket in self._buckets):
            return
        for bucket in self._buckets:
            bucket.take()
        self._recorder.event(regarding, kind, reason, action, note)


def transition(before: Status, after: Status) -> tuple[Literal["Normal", "Warning"], str] | None:
    """Type and reason of the Event that a change of status is worth; None: it is worth none."""
    if after.reason is before.reason:
        return None
    if after.reason is Reason.HELD:
        return "Warning", "Held"
    if after.phase is Phase.FAILED:
        return "Warning", "Failed"
    if after.reason is Reason.SUSPENDED:
        return "Normal", "Suspended"
    if before.reason is Reason.SUSPENDED:
        return "Normal", "Resumed"
    return None
