"""Creates the UserUpdate of one record, in one attempt. No refusal is final: the caller tries again.

A 201 acknowledges the update. So does a 409 AlreadyExists, if a GET then shows the same topic id, partition and offset,
or answers 404 because the update was finished and collected. After any other refusal the same GET is sent: the API
server judges quotas, policies and webhooks before the name, so the update may exist all the same. An overloaded server
is not asked twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from controller.api.user_update_status import FINISHED
from controller.clients.cluster import UPDATES, Body, Cluster
from controller.errors import AlreadyExists, ApiError, NotFound


@dataclass(frozen=True, slots=True)
class Present:
    """The update is there and unfinished: created just now, or before."""

    version: int
    new: bool

    @property
    def outcome(self) -> str:
        """The label in metrics, which the other answers have too."""
        return "created" if self.new else "already_there"


@dataclass(frozen=True, slots=True)
class AlreadyFinished:
    """The update was created before, and is finished, or was collected since."""

    outcome = "already_finished"


@dataclass(frozen=True, slots=True)
class NameTaken:
    """An object of that name has another source."""

    outcome = "name_taken"


Answer: TypeAlias = Present | AlreadyFinished | NameTaken


async def create(cluster: Cluster, manifest: Body) -> Answer:
    """Raises ApiError where the create is to be tried again, whatever the code."""
    try:
        body = await cluster.create(UPDATES, manifest["metadata"]["namespace"], manifest)
    except AlreadyExists:
        return await _look(cluster, manifest) or AlreadyFinished()
    except ApiError as error:
        if error.status in (0, 429) or (answer := await _look_unless_refused(cluster, manifest)) is None:
            raise
        return answer
    return Present(int(body["metadata"]["resourceVersion"]), new=True)


async def _look_unless_refused(cluster: Cluster, manifest: Body) -> Answer | None:
    """Look for the update; None where that is refused too: the first refusal matters more."""
    try:
        return await _look(cluster, manifest)
    except ApiError:
        return None


async def _look(cluster: Cluster, manifest: Body) -> Answer | None:
    metadata = manifest["metadata"]
    try:
        body = await cluster.get(UPDATES, metadata["namespace"], metadata["name"])
    except NotFound:
        return None
    if not _same_source(body["spec"], manifest["spec"]):
        return NameTaken()
    if (body.get("status") or {}).get("phase") in FINISHED:
        return AlreadyFinished()
    return Present(int(body["metadata"]["resourceVersion"]), new=False)


def _same_source(there: dict[str, Any], wanted: dict[str, Any]) -> bool:
    ours, theirs = wanted["source"], there.get("source") or {}
    return there["stream"] == wanted["stream"] and all(
        theirs.get(key) == ours[key] for key in ("topicId", "partition", "offset")
    )
