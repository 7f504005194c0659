"""UserBacklogs whose stream is gone: nobody works them off, so nobody else would let go of a deleted one.

The records that it lists are given up with it, as the group's offsets lie behind them. So that is told, and neither
prevented nor mended: a finalizer that stayed would hold up whoever uninstalls, and an offset that the group is set back
to would bring back what was finished and collected since (docs/decisions/0054-deleted-streams.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial

from controller import logs
from controller.bridge import finalizers
from controller.bridge.census import Census, Key
from controller.cluster import BACKLOGS, Body, Cluster
from controller.errors import ApiError, Conflict, NotFound
from controller.logs import retrying
from controller.recorder import EventRecorder, reference

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0


async def release_orphans(
    cluster: Cluster, backlogs: Census, exists: Callable[[Key], bool], recorder: EventRecorder
) -> None:
    """Take the finalizer off deleted ones without a stream, for as long as this runs; say why the others stay."""
    told: set[str] = set()
    while True:
        given_up: Counter[Key] = Counter()
        for namespace, name in list(backlogs.deleted):
            try:
                given_up += await _release(cluster, namespace, name, exists, partial(_tell_kept, recorder, told))
            except (NotFound, Conflict):
                pass
            except ApiError as error:
                retrying(logger, "UserBacklog not let go", error, backlog=f"{namespace}/{name}")
        for stream, records in given_up.items():
            _tell(recorder, stream, records)
        await asyncio.sleep(LOOK_SECONDS)


async def _release(
    cluster: Cluster, namespace: str, name: str, exists: Callable[[Key], bool], kept_for_stream: Callable[[Body], None]
) -> Counter[Key]:
    """The records that are given up with it, by stream."""
    body = await cluster.get(BACKLOGS, namespace, name)
    stream = namespace, body["spec"]["stream"]
    if not finalizers.has_own(body):
        return Counter()
    if exists(stream):
        kept_for_stream(body)
        return Counter()
    await cluster.patch(BACKLOGS, namespace, name, {"metadata": finalizers.without_own(body)})
    return Counter({stream: sum(entry.get("count", 0) for entry in body["spec"].get("partitions") or ())})


def _tell_kept(recorder: EventRecorder, told: set[str], body: Body) -> None:
    """Whoever deletes one waits for its finalizer, and sees nothing but that."""
    metadata = body["metadata"]
    if metadata["uid"] in told:
        return
    told.add(metadata["uid"])
    records = sum(entry.get("count", 0) for entry in body["spec"].get("partitions") or ())
    note = (
        f"deleted, and kept until its {records:,} records have become updates: deleting a UserBacklog gives nothing up."
        " The bridge lets it go then; kubectl delete --wait=false does not wait for that"
    )
    regarding = reference("UserBacklog", metadata["namespace"], metadata["name"], metadata["uid"])
    recorder.event(regarding, "Normal", "RecordsWaiting", "Deleting", note)


def _tell(recorder: EventRecorder, stream: Key, records: int) -> None:
    namespace, name = stream
    note = (
        f"UserBacklogs were deleted whose stream is gone: {records:,} records that waited in them are given up. A"
        " stream that is applied again under this name goes on at its group's offsets, which lie behind them. To read"
        " them, apply one with another name and group: see Replay in the README"
    )
    logger.warning("%s", note, extra=logs.fields(stream=f"{namespace}/{name}"))
    recorder.event(reference("UpdateStream", namespace, name), "Warning", "RecordsGivenUp", "Deleting", note)
