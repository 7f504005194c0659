"""UserBacklogs whose stream is gone. No consumer looks after them, so nobody else would remove their finalizer.

The records that such a backlog lists are given up with it, as the group's offsets are beyond them. An Event reports
that. The bridge does not prevent it, as a finalizer that stayed would block whoever uninstalls. It does not repair it
either: to set back the group's offsets would bring back updates that have finished and were collected
(docs/decisions/0054-deleted-streams.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from controller import logs
from controller.api import names
from controller.bridge.backlogs.writer import has_finalizer, without_finalizer
from controller.bridge.context import BridgeContext
from controller.bridge.object_counts import Key
from controller.clients.cluster import BACKLOGS, Cluster
from controller.clients.event_recorder import EventRecorder, reference
from controller.errors import ApiError, Conflict, NotFound

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
#: Events that one look writes at most of backlogs that are kept: a thousand may be deleted at once.
REPORTED_AT_ONCE = 20


@dataclass(slots=True)
class _DeletedBacklog:
    """A deleted UserBacklog that finalizers keep. It is read once, however long it is kept."""

    uid: str
    stream: Key
    records: int
    #: The bridge's finalizer is among them.
    ours: bool
    reported: bool = False


async def release_orphans(context: BridgeContext, exists: Callable[[Key], bool]) -> None:
    """Remove the finalizer of deleted backlogs without a stream, and report why the others stay; until cancelled.

    `exists` says whether there is a stream of that namespace and name.
    """
    kept: dict[Key, _DeletedBacklog] = {}
    while True:
        deleted = context.backlogs.deleted
        kept = {key: found for key, found in kept.items() if deleted.get(key) == found.uid}
        _report_kept(context.recorder, kept)
        given_up: Counter[Key] = Counter()
        for key in list(deleted):
            if (found := kept.get(key)) and (not found.ours or exists(found.stream)):
                continue
            try:
                kept[key], records = await _release(context.cluster, key, exists)
                given_up += records
            except (NotFound, Conflict):
                pass
            except ApiError as error:
                logs.retrying(logger, "UserBacklog not let go", error, backlog="/".join(key))
        for stream, count in given_up.items():
            _report_given_up(context.recorder, stream, count)
        await asyncio.sleep(LOOK_SECONDS)


async def _release(cluster: Cluster, key: Key, exists: Callable[[Key], bool]) -> tuple[_DeletedBacklog, Counter[Key]]:
    """Remove the bridge's finalizer where the stream is gone.

    Returns what the backlog is then, and the records that are given up with it, by stream.
    """
    body = await cluster.get(BACKLOGS, *key)
    stream = key[0], body["spec"]["stream"]
    records = sum(entry.get("count", 0) for entry in body["spec"].get("partitions") or ())
    found = _DeletedBacklog(body["metadata"]["uid"], stream, records, has_finalizer(body))
    if not found.ours or exists(stream):
        return found, Counter()
    await cluster.patch(BACKLOGS, *key, {"metadata": without_finalizer(body)})
    return replace(found, ours=False), Counter({stream: records})


def _report_kept(recorder: EventRecorder, kept: Mapping[Key, _DeletedBacklog]) -> None:
    """Tell a person who has deleted one, and waits for its finalizer, what it waits for.

    Those in `kept` have been there for one look already. A backlog that the bridge itself removes, as it is empty, is
    gone by then.
    """
    unreported = [(key, found) for key, found in kept.items() if found.ours and not found.reported]
    for (namespace, name), found in unreported[:REPORTED_AT_ONCE]:
        found.reported = True
        note = (
            f"deleted, and kept until its {found.records:,} records have become updates: deleting a UserBacklog gives"
            " nothing up while its stream is there. The bridge lets it go then; kubectl delete --wait=false does not"
            " wait for that"
        )
        regarding = reference("UserBacklog", namespace, name, found.uid)
        recorder.event(regarding, "Normal", "RecordsWaiting", "Deleting", note)


def _report_given_up(recorder: EventRecorder, stream: Key, records: int) -> None:
    namespace, name = stream
    note = (
        f"UserBacklogs were deleted whose stream is gone: {records:,} records that waited in them are given up. A"
        " stream that is applied again under this name goes on at its group's offsets, which lie behind them. To read"
        " them, apply one with another name and group: see Replay, docs/backup.md"
    )
    logger.warning("%s", note, extra=logs.fields(stream=names.namespaced_name(namespace, name)))
    recorder.event(reference("UpdateStream", namespace, name), "Warning", "RecordsGivenUp", "Deleting", note)
