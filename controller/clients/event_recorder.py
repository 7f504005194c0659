"""Writes Kubernetes Events, which `kubectl describe` shows. Named after client-go's EventRecorder."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from controller import errors
from controller.api import names, timestamps
from controller.clients.cluster import EVENTS, Body, Cluster
from controller.logs import fields

logger = logging.getLogger(__name__)

#: The field `type` of an Event.
EventType: TypeAlias = Literal["Normal", "Warning"]

RETRY_SECONDS = 5.0
#: Events that a process writes at once, and further ones a second.
BURST, PER_SECOND = 100, 10.0


class TokenBucket:
    """A token bucket as in client-go's flowcontrol: `burst` at once, then `per_second`."""

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


class EventRecorder:
    """Writes the Events of a process in the background. Nothing waits for an Event, so some may be lost."""

    def __init__(self, cluster: Cluster, process: str, identity: str, *, burst: float = BURST) -> None:
        """`process` is bridge or controller; `burst` is the number of Events that may be written at once."""
        self._cluster = cluster
        self._process = process
        self._identity = identity
        self._bucket = TokenBucket(burst, PER_SECOND)
        self._writes: set[asyncio.Task[None]] = set()

    def event(
        self,
        regarding: Body,
        kind: EventType,
        reason: str,
        action: str,
        note: str,
        *,
        attempts: int = 1,
    ) -> None:
        """Write an Event about the object that `regarding` refers to (see `reference`).

        It is given up after `attempts` attempts, RETRY_SECONDS apart, and at once where the process has written too
        many.
        """
        if self._bucket.empty:
            return
        self._bucket.take()
        manifest = {
            # Not generateName: it must not end with a dot, which separates the object's name.
            "metadata": {"name": f"{regarding['name'][:200].rstrip('-.')}.{time.time_ns():x}"},
            "eventTime": timestamps.to_text(datetime.now(UTC)),
            "reportingController": f"{names.GROUP}/{self._process}",
            "reportingInstance": self._identity[:128],
            "regarding": regarding,
            "type": kind,
            "reason": reason,
            "action": action,
            "note": note[:1024],
        }
        write = asyncio.get_running_loop().create_task(self._write(regarding["namespace"], manifest, attempts))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def _write(self, namespace: str, manifest: Body, attempts: int) -> None:
        for left in reversed(range(attempts)):
            try:
                await self._cluster.create(EVENTS, namespace, manifest, timeout=5.0)
                return
            except errors.ApiError as error:
                logger.debug("Event not written", extra=fields(cause=str(error)))
            if left:
                await asyncio.sleep(RETRY_SECONDS)


def reference(kind: str, namespace: str, name: str, uid: str = "") -> Body:
    """An Event's `regarding`: an object of ours. Without a uid it is any object of that name."""
    known = {"uid": uid} if uid else {}
    return {"apiVersion": names.API_VERSION, "kind": kind, "namespace": namespace, "name": name, **known}
