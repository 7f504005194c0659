"""Objects from outside: one that is not understood keeps its place, never runs, is reported, and stops nothing else."""

from __future__ import annotations

import logging
from dataclasses import replace

from controller import errors
from controller.api import NOT_UNDERSTOOD
from controller.api.user_update import UserUpdate
from controller.clients.cluster import UPDATES, Body, Cluster
from controller.logs import fields

logger = logging.getLogger(__name__)

#: Objects of which it is remembered what was logged.
REMEMBERED = 1000
_logged: dict[str, str] = {}


def parse(body: Body) -> UserUpdate:
    """The update, or a placeholder for it (`unreadable`); of the latter a line in the log, once for each cause.

    One that is `deleted` is to be called no more: nothing takes a deletion back.
    """
    try:
        update = UserUpdate.from_body(body)
    except NOT_UNDERSTOOD as error:
        update = UserUpdate.placeholder(body, error)
        _log_once(update, error)
    return replace(update, deleted=True) if "deletionTimestamp" in body["metadata"] else update


async def read(cluster: Cluster, namespace: str, name: str) -> UserUpdate | None:
    """The update as the API server has it; None where it is gone, or has been deleted. Raises other ApiErrors."""
    try:
        found = parse(await cluster.get(UPDATES, namespace, name))
    except errors.NotFound:
        return None
    return None if found.deleted else found


def _log_once(update: UserUpdate, error: Exception) -> None:
    if _logged.get(update.uid) == repr(error):
        return  # another version of it, which a label may have made
    if len(_logged) >= REMEMBERED:
        _logged.clear()
    _logged[update.uid] = repr(error)
    logger.error(
        "UserUpdate not understood: its user waits. Upgrade the controller, or delete the object",
        extra=fields(namespace=update.namespace, update=update.name, cause=repr(error)),
    )
