"""Leases of streams that are gone: deleted once nobody holds them.

All Leases of a stream go, or none, and the oldest version first. A controller that was cut off tells by its own Lease,
or by others', that somebody has worked on the stream meanwhile (`Lease._make_it_count`); whoever did so acquired later
than it, so what tells of that never goes before the Lease that is its own. For the same reason what another division
of a stream has left (`spec.shards`) stays for as long as the stream does: at most 136 of them.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Set

from controller import errors
from controller.api import names
from controller.clients.cluster import LEASES, Cluster
from controller.logs import fields, retrying
from controller.reconciler.lease_watch import Sighting

logger = logging.getLogger(__name__)


async def delete_leftovers(
    cluster: Cluster, leases: Iterable[tuple[str, str, Sighting]], streams: Set[tuple[str, str]]
) -> None:
    """`leases` are some namespaces', with their names; `streams` all that are in these, by namespace and name.

    Each Lease is deleted as it was seen: one that a stream of the same name, made since, has been given stays. Every
    controller does so, and whoever is late finds nothing.
    """
    left: defaultdict[tuple[str, str], dict[str, Sighting]] = defaultdict(dict)
    for namespace, name, sighting in leases:
        if (stream := names.stream_of_lease(name)) and (namespace, stream) not in streams:
            left[namespace, stream][name] = sighting
    for (namespace, stream), found in left.items():
        if not all(sighting.free for sighting in found.values()):
            continue
        try:
            for name, sighting in sorted(found.items(), key=lambda entry: int(entry[1].version)):
                await cluster.delete(LEASES, namespace, name, version=int(sighting.version))
        except (errors.Conflict, errors.NotFound):
            continue  # somebody has it again, or was faster
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
