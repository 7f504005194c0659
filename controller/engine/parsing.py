"""Objects from outside: what cannot be understood is left alone, and stops nothing else."""

from __future__ import annotations

import logging

from controller.cluster import Body
from controller.logs import fields
from controller.updates import UserUpdate

logger = logging.getLogger(__name__)


def parse(body: Body) -> UserUpdate | None:
    """None, and a line in the log, where an object is not what the CRD lets pass: one such stops no other."""
    try:
        return UserUpdate.from_body(body)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        name = body.get("metadata", {}).get("name")
        logger.error("UserUpdate not understood, left alone", extra=fields(update=name, cause=repr(error)))
        return None
