"""Kubernetes Events for what a person should look at: an update held or failed, a suspension and its end.

Only transitions, and few: each is one more write to etcd. They are lost rather than waited for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Literal

from controller import errors, names, times
from controller.cluster import EVENTS, Body, Cluster
from controller.logs import fields
from controller.streams import UpdateStream
from controller.updates import Phase, Reason, Status, UserUpdate

logger = logging.getLogger(__name__)

REPORTER = f"{names.GROUP}/controller"
#: Of a stream at most so many at once, and so many more each second; of all that a process works on together.
BURST, PER_SECOND = 25, 1.0
WHOLE_BURST, WHOLE_PER_SECOND = 100, 10.0


class Bucket:
    """Of tokens: so many at once, and so many more each second."""

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

    def __init__(self, cluster: Cluster, identity: str, whole: Bucket) -> None:
        self._cluster = cluster
        self._identity = identity
        self._buckets = Bucket(BURST, PER_SECOND), whole
        self._writes: set[asyncio.Task[None]] = set()

    def update_changed(self, update: UserUpdate, before: Status) -> None:
        """Tell of an update whose status has just been written."""
        after = update.status
        if told := transition(before, after):
            kind, reason = told
            regarding = _reference("UserUpdate", update.namespace, update.name, update.uid)
            self._announce(regarding, kind, reason, after.step or "Finish", after.message)

    def stream_changed(self, stream: UpdateStream, before: UpdateStream) -> None:
        """Tell of a stream whose processing or users were suspended or resumed."""
        regarding = _reference("UpdateStream", stream.namespace, stream.name, stream.uid)
        if stream.suspend.processing != before.suspend.processing:
            reason = "Suspended" if stream.suspend.processing else "Resumed"
            self._announce(regarding, "Normal", reason, "Processing", f"processing {reason.lower()}")
        for word, users in (
            ("Suspended", stream.suspend.users - before.suspend.users),
            ("Resumed", before.suspend.users - stream.suspend.users),
        ):
            if users:
                self._announce(regarding, "Normal", word, "Processing", f"{word.lower()} for {len(users)} users")

    def _announce(self, regarding: Body, kind: str, reason: str, action: str, note: str) -> None:
        if any(bucket.empty for bucket in self._buckets):
            return
        for bucket in self._buckets:
            bucket.take()
        manifest = {
            # Not generateName: it may not end with the dot that sets the object's name apart.
            "metadata": {"name": f"{regarding['name'][:200].rstrip('-.')}.{time.time_ns():x}"},
            "eventTime": times.to_text(datetime.now(UTC)),
            "reportingController": REPORTER,
            "reportingInstance": self._identity[:128],
            "regarding": regarding,
            "type": kind,
            "reason": reason,
            "action": action,
            "note": note[:1024],
        }
        write = asyncio.get_running_loop().create_task(self._write(regarding["namespace"], manifest))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def _write(self, namespace: str, manifest: Body) -> None:
        try:
            await self._cluster.create(EVENTS, namespace, manifest, timeout=5.0)
        except errors.ApiError as error:
            logger.debug("Event not written", extra=fields(cause=str(error)))


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


def _reference(kind: str, namespace: str, name: str, uid: str) -> Body:
    return {"apiVersion": names.API_VERSION, "kind": kind, "namespace": namespace, "name": name, "uid": uid}
