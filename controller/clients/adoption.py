"""Adopts streams, so that a copy of a stream that was restored from a backup does not start by accident.

Backup tools and `kubectl apply` bring an object back without its status: a restored stream has no positions, and its
finished updates look as if they had never been called. An annotation is restored with the object, and a uid never is.
So the first process that works on a stream writes the uid into an annotation. Where the annotation has another uid,
nothing is consumed and nothing is called until a person says that everything is in place (docs/backup.md).
"""

from __future__ import annotations

import logging

from controller.api import names
from controller.api.update_stream import UpdateStream
from controller.clients.cluster import STREAMS, Cluster
from controller.clients.event_recorder import EventRecorder
from controller.clients.stream_status import StreamStatus
from controller.errors import ApiError, Conflict, NotFound, Unavailable
from controller.logs import retrying

logger = logging.getLogger(__name__)

#: Reason of both conditions of a stream that stands still because it was restored.
RESTORED = "Restored"
RESTORED_MESSAGE = (
    f"this UpdateStream is a copy of another one, by its annotation {names.UID_ANNOTATION}: nothing is read or called,"
    " as finished updates would run again where their status is missing. Restore the status of the stream and of its"
    f" updates, then remove the annotation: kubectl annotate us NAME {names.UID_ANNOTATION}-"
)


async def adopt(cluster: Cluster, stream: UpdateStream) -> None:
    """Write the uid into the stream's annotation where it has none. Raises Unavailable, NotFound or Conflict.

    Where the API server refuses the annotation, the process works on the stream all the same: the annotation only
    guards against an accident.
    """
    if stream.adopted_uid is not None:
        return
    # The uid in the patch keeps it from a newer stream of that name, which is adopted under its own uid.
    patch = {"metadata": {"uid": stream.uid, "annotations": {names.UID_ANNOTATION: stream.uid}}}
    try:
        await cluster.patch(STREAMS, stream.namespace, stream.name, patch)
    except (Unavailable, NotFound, Conflict):
        raise
    except ApiError as error:
        retrying(logger, "Annotation refused: a restored copy would run", error, stream=stream.namespaced_name)


async def report_restored(cluster: Cluster, recorder: EventRecorder, stream: UpdateStream) -> None:
    """Set the condition Processing to False, because the stream was restored. Raises NotFound when it is gone."""
    status = StreamStatus(cluster, recorder, stream.namespace, stream.name, stream.uid)
    await status.deny("Processing", RESTORED, RESTORED_MESSAGE, stream.generation)
