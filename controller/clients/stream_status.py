"""Writes `UpdateStream.status`, which several processes share: each reads it, changes its own part, and patches it.

A patch carries the resourceVersion that was read. Where another process was faster, the status is read again and the
change is made again. A stream gets at most one write a second, and none where nothing has changed. This is not
server-side apply, which would delete an entry that its owner stops applying.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from prometheus_client import Counter

from controller.api import names, timestamps
from controller.clients.cluster import STREAMS, Body, Cluster
from controller.clients.event_recorder import EventRecorder
from controller.clients.transitions import Transitions, conditions
from controller.errors import ApiError, Conflict, Expired, NotFound, Unavailable
from controller.logs import retrying

logger = logging.getLogger(__name__)

#: Takes the present status, does not modify it, and returns the wanted one. It may be called several times.
Change: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

#: Reasons of Consuming and Processing that a process writes for another one that does not renew its Lease.
NO_BRIDGE = "NoBridge"
NO_CONTROLLER = "NoController"
#: Reasons for which nothing is done: this version does not understand the spec; the API server refuses the Lease.
UNREADABLE = "StreamUnreadable"
LEASE_REFUSED = "LeaseRefused"

WRITE_SECONDS = 1.0
MAX_DELAY = 5.0
#: Seconds that the API server's Retry-After may ask for.
MAX_RETRY_AFTER = 60.0
#: So many conflicts in a row are retried at once, because several processes write one status. Then come pauses.
CONFLICTS = 3
#: Characters of a condition's message, by the schema.
MAX_MESSAGE = 32_768

REFUSED = Counter(
    "enrichment_status_refused", "Writes of a stream's status that the API server refused", ["namespace", "stream"]
)


@dataclass(slots=True, eq=False)
class _PendingChange:
    change: Change
    #: The status that has the change; cancelled where the caller no longer waits.
    done: asyncio.Future[dict[str, Any]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class StreamStatus:
    """The status of one stream. Changes of this process go into common writes."""

    def __init__(self, cluster: Cluster, recorder: EventRecorder, namespace: str, name: str, uid: str) -> None:
        self._cluster = cluster
        self._transitions = Transitions(recorder, namespace, name, uid)
        self._namespace = namespace
        self._name = name
        self._uid = uid
        self._stream = names.namespaced_name(namespace, name)
        self._pending: list[_PendingChange] = []
        self._writer: asyncio.Task[None] | None = None
        self._next_write = 0.0
        #: The status before a write whose answer was lost; None: no answer was.
        self._unsure: dict[str, Any] | None = None
        #: The status that the watch has shown last; None: it has shown none.
        self._seen: dict[str, Any] | None = None

    def observe(self, body: Mapping[str, Any]) -> None:
        """A watch shows the stream."""
        if body["metadata"]["uid"] == self._uid:
            self._seen = body.get("status") or {}

    def would_change(self, change: Change) -> bool:
        """Whether it would change the status that the watch has shown last; True before that. Makes no request."""
        return self._seen is None or bool(_patch(self._seen, change(self._seen)))

    @property
    def backlog_counts(self) -> tuple[int, int]:
        """Users with a backlog and the records in the backlogs, of all replicas, as the watch has shown them last."""
        status = self._seen or {}
        users, backlog = status.get("users") or {}, status.get("backlog") or {}
        return users.get("overflowing", 0), backlog.get("records", 0)

    async def apply(self, change: Change) -> dict[str, Any]:
        """Write the change and return the status that has it. Waits while the API server is away.

        Raises NotFound when the stream is gone or another one has its name, another ApiError when the change is
        refused, and whatever `change` raises. A refused change is not repeated; the caller may do so.
        """
        pending = _PendingChange(change)
        self._pending.append(pending)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await pending.done

    async def deny(self, kind: Literal["Consuming", "Processing"], reason: str, message: str, generation: int) -> None:
        """Set the condition to False. Waits and raises as `apply` does."""

        def change(status: dict[str, Any]) -> dict[str, Any]:
            now = datetime.now(UTC)
            return with_condition(status, kind, False, reason, message, generation=generation, now=now)

        await self.apply(change)

    async def read(self) -> dict[str, Any]:
        """Read the status. Raises ApiError; NotFound also where another stream has the name now."""
        return (await self._read())[0]

    async def _write(self) -> None:
        while self._pending:
            await asyncio.sleep(self._next_write - time.monotonic())
            self._next_write = time.monotonic() + WRITE_SECONDS
            batch, self._pending = self._pending, []
            await self._write_batch(batch)

    async def _write_batch(self, batch: list[_PendingChange]) -> None:
        """Write all changes at once. Where that fails for good, write each by itself, to find the one at fault."""
        try:
            status = await self._write_until_answered(batch)
        except Exception as error:
            waiting = [pending for pending in batch if not pending.done.done()]
            if len(waiting) > 1 and not isinstance(error, NotFound):
                for pending in waiting:
                    await self._write_batch([pending])
                return
            for pending in waiting:
                pending.done.set_exception(error)
        else:
            for pending in batch:
                if not pending.done.done():
                    pending.done.set_result(status)

    async def _write_until_answered(self, batch: list[_PendingChange]) -> dict[str, Any]:
        """Repeat the write until the API server answers. Raises ApiError where it refuses."""
        delay, conflicts = 0.1, 0
        while True:
            try:
                return await self._attempt([pending.change for pending in batch if not pending.done.done()])
            except Conflict:
                conflicts += 1
                if conflicts < CONFLICTS:
                    continue  # the process that was faster is done by now
                pause = None
            except (Unavailable, Expired) as error:
                retrying(logger, "Status of a stream not written", error, stream=self._stream)
                pause = error.retry_after
            except NotFound:
                raise
            except ApiError as error:
                retrying(logger, "Status of a stream refused", error, stream=self._stream)
                REFUSED.labels(self._namespace, self._name).inc()
                raise
            await asyncio.sleep(min(pause or delay, MAX_RETRY_AFTER))
            delay = min(2 * delay, MAX_DELAY)

    async def _attempt(self, changes: list[Change]) -> dict[str, Any]:
        if not changes:
            return {}  # no caller waits any more
        before, version = await self._read()
        after = before
        for change in changes:
            after = change(after)
        if patch := _patch(before, after):
            self._unsure = before if self._unsure is None else self._unsure
            try:
                await self._cluster.patch_status(STREAMS, self._namespace, self._name, patch, version)
            except Unavailable:
                raise
            except ApiError:
                self._unsure = None
                raise
        if self._unsure is not None:
            self._transitions.written(self._unsure, after)
            self._unsure = None
        return after

    async def _read(self) -> tuple[dict[str, Any], int]:
        body = await self._cluster.get(STREAMS, self._namespace, self._name)
        if body["metadata"]["uid"] != self._uid:
            raise NotFound(f"stream {self._stream} was deleted; another one has its name")
        return body.get("status") or {}, int(body["metadata"]["resourceVersion"])


async def report_unreadable(
    cluster: Cluster,
    recorder: EventRecorder,
    kind: Literal["Consuming", "Processing"],
    body: Body,
    cause: Exception,
) -> None:
    """Set the condition to False, because this version does not understand the stream's spec for the reason `cause`.

    Waits while the API server is away. Raises NotFound when the stream is gone, another ApiError when it is refused.
    """
    metadata = body["metadata"]
    stands = "nothing is consumed" if kind == "Consuming" else "its updates wait"
    message = (
        f"this version does not understand the spec ({type(cause).__name__}: {cause}): {stands}."
        " Upgrade bridge and controller, or change it back"
    )
    status = StreamStatus(cluster, recorder, metadata["namespace"], metadata["name"], metadata["uid"])
    await status.deny(kind, UNREADABLE, message[:1024], metadata.get("generation", 0))


def condition(status: Mapping[str, Any], kind: Literal["Consuming", "Processing"]) -> Mapping[str, Any] | None:
    """The condition of that type; None where no process has written it yet."""
    return conditions(status).get(kind)


def with_unknown(
    status: Mapping[str, Any], kind: Literal["Consuming", "Processing"], reason: str, message: str, now: datetime
) -> dict[str, Any]:
    """The status with that condition Unknown, unless it has that reason already or no process has written it yet."""
    known = condition(status, kind)
    if known is None or known["reason"] == reason:
        return dict(status)
    generation = known.get("observedGeneration", 0)
    return with_condition(status, kind, None, reason, message, generation=generation, now=now)


def with_condition(
    status: Mapping[str, Any],
    kind: Literal["Consuming", "Processing"],
    ok: bool | None,
    reason: str,
    message: str,
    *,
    generation: int,
    now: datetime,
) -> dict[str, Any]:
    """The status with that condition, and with Ready, which follows from both. `ok` None means Unknown."""
    found = conditions(status)
    _set(found, kind, "Unknown" if ok is None else str(ok), reason, message, generation, now)
    parts = [found.get(part) for part in ("Consuming", "Processing")]
    seen = [part["observedGeneration"] for part in parts if part and "observedGeneration" in part]
    if bad := next((part for part in parts if part and part["status"] != "True"), None):
        _set(found, "Ready", bad["status"], bad["reason"], bad["message"], min(seen), now)
    elif None in parts:
        missing = "bridge" if parts[0] is None else "controller"
        _set(found, "Ready", "Unknown", "Pending", f"no {missing} has taken up this stream yet", min(seen), now)
    else:
        _set(found, "Ready", "True", "Ready", "records are consumed and updates processed", min(seen), now)
    return {**status, "conditions": list(found.values()), "observedGeneration": min(seen)}


def _set(
    found: dict[str, dict[str, Any]],
    kind: str,
    value: str,
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> None:
    old = found.get(kind) or {}
    since = old["lastTransitionTime"] if old.get("status") == value else timestamps.to_text(now)
    found[kind] = {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": message[:MAX_MESSAGE],
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }


def _patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {key: after.get(key) for key in {**before, **after} if before.get(key) != after.get(key)}
