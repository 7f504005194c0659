"""The status of an UpdateStream has several writers: each reads, changes what is its own, and writes with the version.

No server-side apply: an entry whose owner stops applying it would be deleted, and positions must outlive their owners.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from controller import times
from controller.cluster import STREAMS, Body, Cluster
from controller.errors import Conflict


async def change(cluster: Cluster, namespace: str, name: str, change: Callable[[Body], Body | None]) -> None:
    """Write the merge patch that `change` makes of the status as it stands; None: leave it.

    Raises NotFound where the stream is gone, and the other errors of the API; a Conflict is tried again.
    """
    while True:
        body = await cluster.get(STREAMS, namespace, name)
        patch = change(body.get("status") or {})
        if patch is None:
            return
        try:
            await cluster.patch_status(STREAMS, namespace, name, patch, int(body["metadata"]["resourceVersion"]))
            return
        except Conflict:
            continue


def with_condition(conditions: list[Body], condition: Body, now: datetime) -> list[Body]:
    """The conditions with one of them set; its time is kept where its status has not changed."""
    others = [known for known in conditions if known["type"] != condition["type"]]
    known = next((known for known in conditions if known["type"] == condition["type"]), None)
    same = known is not None and known["status"] == condition["status"]
    time: Any = known["lastTransitionTime"] if known and same else times.to_text(now)
    return sorted([*others, {**condition, "lastTransitionTime": time}], key=lambda each: str(each["type"]))
