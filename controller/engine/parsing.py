"""Objects from outside: what cannot be understood keeps its place, never runs, is told of, and stops nothing else."""

from __future__ import annotations

import logging

from controller import errors
from controller.cluster import UPDATES, Body, Cluster
from controller.logs import fields
from controller.updates import NOT_UNDERSTOOD, UserUpdate

logger = logging.getLogger(__name__)

#: Of so many objects it is remembered which version of them was told of in the log.
REMEMBERED = 1000
_told: dict[str, int] = {}


def parse(body: Body) -> UserUpdate:
    """The update, or what stands in for it (`unreadable`); of the latter a line in the log, once for each version."""
    try:
        return UserUpdate.from_body(body)
    except NOT_UNDERSTOOD as error:
        update = UserUpdate.stand_in(body, error)
        _tell(update, error)
        return update


async def read(cluster: Cluster, namespace: str, name: str) -> UserUpdate | None:
    """The update as the API server has it; None where it is gone. Raises other ApiErrors."""
    try:
        return parse(await cluster.get(UPDATES, namespace, name))
    except errors.NotFound:
        return None


def _tell(update: UserUpdate, error: Exception) -> None:
    if _told.get(update.uid) == update.resource_version:
        return
    if len(_told) >= REMEMBERED:
        _told.clear()
    _told[update.uid] = update.resource_version
    logger.error(
        "UserUpdate not understood: its user waits. Upgrade the controller, or delete the object",
        extra=fields(namespace=update.namespace, update=update.name, cause=repr(error)),
    )
