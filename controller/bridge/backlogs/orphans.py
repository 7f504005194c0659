"""UserBacklogs whose stream is gone: nobody works them off, so nobody else would let go of a deleted one.

The records that it lists are given up with it, as the group's offsets lie behind them. So that is told, and neither
prevented nor mended: a finalizer that stayed would hold up whoever uninstalls, and an offset that the group is set back
to would bring back what was finished and collected since (docs/decisions/0054-deleted-streams.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from controller import logs
from controller.api import names
from controller.bridge.backlogs import finalizers
from controller.bridge.object_counts import Key, ObjectCounts
from controller.clients.cluster import BACKLOGS, Cluster
from controller.clients.event_recorder import EventRecorder, reference
from controller.errors import ApiError, Conflict, NotFound
from controller.logs import retrying

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
#: Events of backlogs that are kept that one look writes at most: a thousand may be deleted at once.
TOLD_AT_ONCE = 20


@dataclass(slots=True)
class _Kept:
    """A deleted one that a finalizer keeps, as it was read: once, however long it is kept."""

    uid: str
    stream: Key
    records: int
    #: Our finalizer is among those that keep it.
    ours: bool
    told: bool = False


async def release_orphans(
    cluster: Cluster, backlogs: ObjectCounts, exists: Callable[[Key], bool], recorder: EventRecorder
) -> None:
    """Take the finalizer off deleted ones without a stream, for as long as this runs; say why the others stay."""
    kept: dict[Key, _Kept] = {}
    while True:
        kept = {key: found for key, found in kept.items() if backlogs.deleted.get(key) == found.uid}
        _tell_kept(recorder, kept)
        given_up: Counter[Key] = Counter()
        for key in list(backlogs.deleted):
            if (found := kept.get(key)) and (not found.ours or exists(found.stream)):
                continue
            try:
                kept[key], records = await _release(cluster, key, exists)
                given_up += records
            except (NotFound, Conflict):
                pass
            except ApiError as error:
                retrying(logger, "UserBacklog not let go", error, backlog="/".join(key))
        for stream, count in given_up.items():
            _tell(recorder, stream, count)
        await asyncio.sleep(LOOK_SECONDS)


async def _release(cluster: Cluster, key: Key, exists: Callable[[Key], bool]) -> tuple[_Kept, Counter[Key]]:
    """What is left of it, and the records that are given up with it, by stream."""
    body = await cluster.get(BACKLOGS, *key)
    stream = key[0], body["spec"]["stream"]
    records = sum(entry.get("count", 0) for entry in body["spec"].get("partitions") or ())
    found = _Kept(body["metadata"]["uid"], stream, records, finalizers.has_own(body))
    if not found.ours or exists(stream):
        return found, Counter()
    await cluster.patch(BACKLOGS, *key, {"metadata": finalizers.without_own(body)})
    return replace(found, ours=False), Counter({stream: records})


def _tell_kept(recorder: EventRecorder, kept: Mapping[Key, _Kept]) -> None:
    """Whoever deletes one waits for its finalizer, and sees nothing but that.

    These have been there for a look: what the bridge removes by itself, as nothing waits in it any more, is gone.
    """
    untold = [(key, found) for key, found in kept.items() if found.ours and not found.told]
    for (namespace, name), found in untold[:TOLD_AT_ONCE]:
        found.told = True
        note = (
            f"deleted, and kept until its {found.records:,} records have become updates: deleting a UserBacklog gives"
            " nothing up while its stream is there. The bridge lets it go then; kubectl delete --wait=false does not"
            " wait for that"
        )
        regarding = reference("UserBacklog", namespace, name, found.uid)
        recorder.event(regarding, "Normal", "RecordsWaiting", "Deleting", note)


def _tell(recorder: EventRecorder, stream: Key, records: int) -> None:
    namespace, name = stream
    note = (
        f"UserBacklogs were deleted whose stream is gone: {records:,} records that waited in them are given up. A"
        " stream that is applied again under this name goes on at its group's offsets, which lie behind them. To read"
        " them, apply one with another name and group: see Replay in the README"
    )
    logger.warning("%s", note, extra=logs.fields(stream=names.namespaced_name(namespace, name)))
    recorder.event(reference("UpdateStream", namespace, name), "Warning", "RecordsGivenUp", "Deleting", note)
