"""The finalizer of a UserBacklog, beside which others may have theirs: a merge patch replaces the whole list."""

from __future__ import annotations

from typing import Any

from controller.api import names
from controller.clients.cluster import Body

FINALIZER = names.BACKLOG_FINALIZER


def has_own(body: Body) -> bool:
    return FINALIZER in (body["metadata"].get("finalizers") or ())


def others(body: Body) -> list[str]:
    """In their order."""
    return [entry for entry in body["metadata"].get("finalizers") or () if entry != FINALIZER]


def with_own(body: Body) -> dict[str, Any]:
    """`metadata` of a patch that adds ours where it is missing; with the version, as the list is all that was read."""
    metadata = {"resourceVersion": body["metadata"]["resourceVersion"]}
    return metadata if has_own(body) else metadata | {"finalizers": [*others(body), FINALIZER]}


def without_own(body: Body) -> dict[str, Any]:
    """The same of a patch that takes ours away."""
    return {"resourceVersion": body["metadata"]["resourceVersion"], "finalizers": others(body) or None}
