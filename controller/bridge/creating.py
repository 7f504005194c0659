"""One record's UserUpdate: asked for until the API server has acknowledged it, whatever it answers meanwhile.

Acknowledged is a 201; or a 409 AlreadyExists and a GET that shows the same topic id, partition and offset, or 404, as
then it was done and collected. A 403 is followed by the same GET: a quota is judged before the name. Every other answer
slows the creates down.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from controller.bridge.brake import Brake
from controller.cluster import UPDATES, Body, Cluster
from controller.errors import AlreadyExists, ApiError, Forbidden, Invalid, NotFound
from controller.updates import FINISHED

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """It is there, made just now or before, at that version."""

    version: int
    new: bool


@dataclass(frozen=True, slots=True)
class Over:
    """It was there before: finished, or collected since."""


@dataclass(frozen=True, slots=True)
class NameTaken:
    """An object of that name has another source."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The API server will never take it."""

    message: str


Answer: TypeAlias = Unfinished | Over | NameTaken | Refused


class Creator:
    def __init__(self, cluster: Cluster, brake: Brake) -> None:
        self._cluster = cluster
        self._brake = brake

    async def create(self, manifest: Body, hold: Callable[[], Awaitable[None]]) -> Answer:
        """`hold` returns when the assignment is certain, and raises what ends this."""
        while True:
            async with self._brake.turn():
                await hold()
                try:
                    answer = await self._attempt(manifest)
                except ApiError as error:
                    self._brake.failed(error)
                    logger.debug("UserUpdate not created: %s", error)
                else:
                    self._brake.worked()
                    return answer

    async def _attempt(self, manifest: Body) -> Answer:
        """Raises ApiError where it is to be tried again."""
        try:
            body = await self._cluster.create(UPDATES, manifest["metadata"]["namespace"], manifest)
        except AlreadyExists:
            return await self._look(manifest) or Over()
        except Forbidden as error:
            # A namespace that is being deleted, a quota, a missing right: the update may be there all the same.
            if (answer := await self._look(manifest)) is not None:
                return answer
            raise error
        except Invalid as error:
            return Refused(str(error))
        return Unfinished(int(body["metadata"]["resourceVersion"]), new=True)

    async def _look(self, manifest: Body) -> Answer | None:
        metadata = manifest["metadata"]
        try:
            body = await self._cluster.get(UPDATES, metadata["namespace"], metadata["name"])
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
