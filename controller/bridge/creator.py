"""One record's UserUpdate: asked for once; no refusal is final, so whoever asks comes back.

Acknowledged is a 201; or a 409 AlreadyExists and a GET that shows the same topic id, partition and offset, or 404, as
then it was done and collected. Any other refusal is followed by the same GET: quotas, policies and webhooks are judged
before the name, so the update may be there all the same. An overloaded server is not asked twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from controller.api.user_update_status import FINISHED
from controller.clients.cluster import UPDATES, Body, Cluster
from controller.errors import AlreadyExists, ApiError, NotFound


@dataclass(frozen=True, slots=True)
class Unfinished:
    """It is there, made just now or before, at that version."""

    version: int
    new: bool

    @property
    def outcome(self) -> str:
        """For the metric, as the other answers have it too."""
        return "created" if self.new else "already_there"


@dataclass(frozen=True, slots=True)
class Over:
    """It was there before: finished, or collected since."""

    outcome = "already_finished"


@dataclass(frozen=True, slots=True)
class NameTaken:
    """An object of that name has another source."""

    outcome = "name_taken"


@dataclass(frozen=True, slots=True)
class Unusable:
    """Not asked for: another version, or a person, has put a record aside of which this one makes no update."""

    outcome = "unusable"


Answer: TypeAlias = Unfinished | Over | NameTaken


async def create(cluster: Cluster, manifest: Body) -> Answer:
    """Raises ApiError where it is to be asked for again, whatever the code."""
    try:
        body = await cluster.create(UPDATES, manifest["metadata"]["namespace"], manifest)
    except AlreadyExists:
        return await _look(cluster, manifest) or Over()
    except ApiError as error:
        if error.status in (0, 429) or (answer := await _look_aside(cluster, manifest)) is None:
            raise
        return answer
    return Unfinished(int(body["metadata"]["resourceVersion"]), new=True)


async def _look_aside(cluster: Cluster, manifest: Body) -> Answer | None:
    """The same where what was refused matters more than that this is."""
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
        return Over()
    return Unfinished(int(body["metadata"]["resourceVersion"]), new=False)


def _same_source(there: dict[str, Any], wanted: dict[str, Any]) -> bool:
    ours, theirs = wanted["source"], there.get("source") or {}
    return there["stream"] == wanted["stream"] and all(
        theirs.get(key) == ours[key] for key in ("topicId", "partition", "offset")
    )
