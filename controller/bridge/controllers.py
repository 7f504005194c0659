"""Whether a controller works on a stream: the Leases that controllers renew for it are read now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from controller.api import names
from controller.api.update_stream import UpdateStream
from controller.clients.adoption import RESTORED
from controller.clients.cluster import Cluster, object_key
from controller.clients.heartbeats import Heartbeats, poll_leases
from controller.clients.namespaces import for_each
from controller.clients.process_lease import LEASE_SECONDS
from controller.clients.stream_status import LEASE_REFUSED, NO_CONTROLLER, UNREADABLE, condition, with_unknown
from controller.config import Scope

#: Seconds between lists of all streams' Leases. Metadata is enough: each renewal gives the Lease another version.
LOOK_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Missing:
    """A Lease of a stream has not been renewed for a minute."""

    #: Which Lease that is, for the condition.
    message: str
    #: No Lease of the stream has been renewed.
    whole: bool


def without_controller(stream: UpdateStream, missing: Missing, status: Mapping[str, Any]) -> dict[str, Any]:
    """The status with Processing Unknown, as no controller renews the stream's Lease, or one of several.

    Unchanged where a controller has written for this spec why nobody holds the Lease: it lives, and would write it
    again.
    """
    known = condition(status, "Processing")
    excuses = {LEASE_REFUSED, UNREADABLE} | ({RESTORED} if stream.restored else set())
    if known and known["reason"] in excuses and known.get("observedGeneration") == stream.generation:
        return dict(status)
    status = with_unknown(status, "Processing", NO_CONTROLLER, missing.message, datetime.now(UTC))
    return _without_counts(status) if missing.whole else status


def _without_counts(status: dict[str, Any]) -> dict[str, Any]:
    """Remove the counts that a controller writes: they would show what was so when it died.

    Where some shards still have a controller, those write the sum of what each shard had last.
    """
    known = {field: status.get(field) or {} for field in ("counts", "users")}
    stale = {
        "counts": {name: None for name in known["counts"] if name != "rejected"},
        "users": {name: None for name in known["users"] if name != "overflowing"},
    }
    return {**status, **{field: {**known[field], **names} for field, names in stale.items() if names}}


class Controllers:
    """Knows when each stream's Leases were renewed last."""

    def __init__(self, cluster: Cluster, scope: Scope) -> None:
        self._cluster = cluster
        self._scope = scope
        #: By namespace and name of the Lease; for each of the scope's namespaces, as each is looked at by itself.
        self._heartbeats: dict[str | None, Heartbeats[tuple[str, str]]] = {
            each: Heartbeats(LOOK_SECONDS) for each in scope.each
        }

    def missing(self, stream: UpdateStream) -> Missing | None:
        """The Lease that is not renewed; None where all of the stream's are, or nothing is known of them yet."""
        now, heard = time.monotonic(), self._heartbeats[self._scope.of(stream.namespace)]
        leases = [names.lease_name(stream.name, shard, stream.shards) for shard in range(stream.shards)]
        silent = [lease for lease in leases if heard.age((stream.namespace, lease), now) >= LEASE_SECONDS]
        if not silent:
            return None
        message = (
            f"no controller has renewed the Lease {silent[0]} for {LEASE_SECONDS:.0f} s: look at "
            f"the controllers' pods, and at kubectl get leases -n {stream.namespace} -l {names.STREAM_LABEL}"
        )
        return Missing(message, whole=len(silent) == len(leases))

    async def follow(self, looked: Callable[[str | None], None]) -> None:
        """List Leases until cancelled. `looked` is called after each list, with the namespace of the scope."""
        await for_each(self._scope, partial(self._follow, looked))

    async def _follow(self, looked: Callable[[str | None], None], namespace: str | None) -> None:
        label = names.STREAM_LABEL
        async for leases in poll_leases(self._cluster, namespace, label, LOOK_SECONDS, metadata_only=True):
            versions = {object_key(body): body["metadata"]["resourceVersion"] for body in leases}
            self._heartbeats[namespace].observe(versions, time.monotonic())
            looked(namespace)
