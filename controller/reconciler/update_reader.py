"""Reads UserUpdates. One that this version does not understand keeps its place, never runs, and is reported.

It keeps its user waiting, and nobody else.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from controller import errors
from controller.api import NOT_UNDERSTOOD
from controller.api.user_update import UserUpdate
from controller.clients.cluster import UPDATES, Body, Cluster
from controller.logs import fields

logger = logging.getLogger(__name__)

#: Objects whose last line in the log is remembered.
REMEMBERED = 1000
_logged: dict[str, str] = {}


def parse(body: Body) -> UserUpdate:
    """The update, or a placeholder for it (`unreadable`), for which each cause is logged once.

    An update that has a deletion timestamp is `deleted`, and is not called any more: no deletion is taken back.
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
        return  # another version, with another label say
    if len(_logged) >= REMEMBERED:
        _logged.clear()
    _logged[update.uid] = repr(error)
    logger.error(
        "UserUpdate not understood: its user waits. Upgrade the controller, or delete the object",
        extra=fields(namespace=update.namespace, update=update.name, cause=repr(error)),
    )
