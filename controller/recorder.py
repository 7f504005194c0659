"""Kubernetes Events: what people should look at, as `kubectl describe` shows it. Named after client-go's."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Literal

from controller import errors, names, times
from controller.cluster import EVENTS, Body, Cluster
from controller.logs import fields

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0


class EventRecorder:
    """Writes Events in the background. They are lost rather than waited for."""

    def __init__(self, cluster: Cluster, process: str, identity: str) -> None:
        """`process`: bridge or controller."""
        self._cluster = cluster
        self._process = process
        self._identity = identity
        self._writes: set[asyncio.Task[None]] = set()

    def event(
        self,
        regarding: Body,
        kind: Literal["Normal", "Warning"],
        reason: str,
        action: str,
        note: str,
        *,
        attempts: int = 1,
    ) -> None:
        """`regarding` is an object reference; after `attempts` that failed, some seconds apart, it is given up."""
        manifest = {
            # Not generateName: it may not end with the dot that sets the object's name apart.
            "metadata": {"name": f"{regarding['name'][:200].rstrip('-.')}.{time.time_ns():x}"},
            "eventTime": times.to_text(datetime.now(UTC)),
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


def reference(kind: str, namespace: str, name: str, uid: str) -> Body:
    """An Event's `regarding`."""
    return {"apiVersion": names.API_VERSION, "kind": kind, "namespace": namespace, "name": name, "uid": uid}
