"""A stream is adopted under its uid, so that a copy of it, restored from a backup, does not begin to work by accident.

Backup tools and `kubectl apply` bring an object back without its status: a restored stream has no positions, and its
finished updates look as if they had never been called. An annotation is restored with the object, a uid never is. So
whoever first works on a stream writes its uid into an annotation, and where that is another one nothing is read and
nothing is called until a person says that all is in place (docs/backup.md).
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

#: Reason of the conditions of a stream that is not worked on because it was restored.
RESTORED = "Restored"
RESTORED_MESSAGE = (
    f"this UpdateStream is a copy of another one, by its annotation {names.UID_ANNOTATION}: nothing is read or called,"
    " as finished updates would run again where their status is missing. Restore the status of the stream and of its"
    f" updates, then remove the annotation: kubectl annotate us NAME {names.UID_ANNOTATION}-"
)


async def adopt(cluster: Cluster, stream: UpdateStream) -> None:
    """Write the uid into the stream's annotation where it has none. Raises Unavailable, NotFound or Conflict.

    Where the API server refuses it, the stream is worked on all the same: the annotation guards against an accident.
    """
    if stream.adopted_uid is not None:
        return
    # With the uid: another stream of that name, made since, is adopted as itself.
    patch = {"metadata": {"uid": stream.uid, "annotations": {names.UID_ANNOTATION: stream.uid}}}
    try:
        await cluster.patch(STREAMS, stream.namespace, stream.name, patch)
    except (Unavailable, NotFound, Conflict):
        raise
    except ApiError as error:
        retrying(logger, "Annotation refused: a restored copy would run", error, stream=stream.namespaced_name)


async def report_restored(cluster: Cluster, recorder: EventRecorder, stream: UpdateStream) -> None:
    """Say in the condition Processing that the stream is not worked on. Raises NotFound when it is gone."""
    status = StreamStatus(cluster, recorder, stream.namespace, stream.name, stream.uid)
    await status.deny("Processing", RESTORED, RESTORED_MESSAGE, stream.generation)
