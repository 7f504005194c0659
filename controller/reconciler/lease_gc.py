"""Garbage collection of Leases: those of deleted streams are deleted once nobody holds them.

All Leases of a stream are deleted, or none, and the oldest version first. A controller that was cut off finds out by
its own Lease, or by the stream's others, that another controller has worked on the stream meanwhile (`Lease._confirm`).
That controller acquired its Lease later, so that the cut-off controller's own Lease is always deleted before the one
that shows this. For the same reason Leases of an earlier number of shards (`spec.shards`) stay for as long as the
stream exists: 136 at most.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Set

from controller import errors
from controller.api import names
from controller.clients.cluster import LEASES, Cluster
from controller.logs import fields, retrying
from controller.reconciler.lease_watch import ObservedLease

logger = logging.getLogger(__name__)


async def delete_leases_without_stream(
    cluster: Cluster, leases: Iterable[tuple[str, str, ObservedLease]], streams: Set[tuple[str, str]]
) -> None:
    """Delete those of `leases` whose stream is not among `streams`, all streams of the same namespaces.

    Each Lease is deleted in the version that was observed: the Lease of a stream of that name that was created since
    stays. Every controller does this; a controller that is late finds nothing to delete.
    """
    left: defaultdict[tuple[str, str], dict[str, ObservedLease]] = defaultdict(dict)
    for namespace, name, lease in leases:
        if (stream := names.stream_of_lease(name)) and (namespace, stream) not in streams:
            left[namespace, stream][name] = lease
    for (namespace, stream), found in left.items():
        if not all(lease.free for lease in found.values()):
            continue
        try:
            for name, lease in sorted(found.items(), key=lambda entry: int(entry[1].version)):
                await cluster.delete(LEASES, namespace, name, version=int(lease.version))
        except (errors.Conflict, errors.NotFound):
            continue  # a controller has acquired it again, or has deleted it already
        except errors.ApiError as error:
            retrying(
                logger,
                "Leases of a stream that is gone not deleted",
                error,
                stream=names.namespaced_name(namespace, stream),
            )
        else:
            logger.info(
                "Leases of a stream that is gone deleted", extra=fields(stream=names.namespaced_name(namespace, stream))
            )
