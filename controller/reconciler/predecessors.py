"""The update before one (`source.after`), looked up where the watch may not have shown it yet."""

from __future__ import annotations

from controller.api.user_update import UserUpdate
from controller.clients.cluster import Cluster
from controller.core.user_queue import UserQueue
from controller.reconciler.parsing import read

#: Seconds until a predecessor that is not finished, or could not be looked up, is looked up again.
PREDECESSOR_SECONDS = 1.0


async def settled(cluster: Cluster, update: UserUpdate, name: str, queue: UserQueue) -> bool:
    """Whether the predecessor is finished or gone, or none; if not, it goes into the queue, before what follows.

    Raises ApiError.
    """
    found = await read(cluster, update.namespace, name)
    if found is None or found.status.finished or found.comes_later_than(update):
        return True
    if (found.spec.stream, found.spec.user) == (update.spec.stream, update.spec.user):
        known = queue.get(name)
        if known is None or known.resource_version < found.resource_version:
            queue.push(found)
    return False
