"""Which of the namespaces that a process was given can be read. One that cannot keeps no other from being worked on.

A namespace that is missing and one without rights in it answer the same, 403: rights in a namespace are granted by
objects in it. Either may change at any time, so that such a namespace is asked again, for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from controller.config import Scope
from controller.errors import ApiError, Forbidden
from controller.logs import fields

logger = logging.getLogger(__name__)


class Namespaces:
    """What the API server answered last when a namespace's streams were listed; a change is logged once."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        #: Set whenever another namespace can be read, or one cannot any more.
        self.changed = asyncio.Event()
        self._readable: set[str | None] = set()
        self._refused: set[str | None] = set()

    @property
    def readable(self) -> frozenset[str | None]:
        """Those whose streams were listed, and have not been refused since."""
        return frozenset(self._readable)

    def reads(self, namespace: str) -> bool:
        """Whether what is in that namespace is known."""
        return self.scope.of(namespace) in self._readable

    def listed(self, namespace: str | None) -> None:
        """Its streams are known."""
        if namespace in self._refused:
            logger.info("Namespace is read now", extra=fields(namespace=namespace))
        self._refused.discard(namespace)
        if namespace not in self._readable:
            self._readable.add(namespace)
            self.changed.set()

    def failed(self, namespace: str | None, error: ApiError) -> bool:
        """Its streams could not be listed or watched. Whether that is told here: it is refused.

        An API server that gives no answer says nothing of the namespace. Where all of the cluster is refused there is
        nothing else to work on: that is tried again like any other error.
        """
        if namespace is None or not isinstance(error, Forbidden):
            return False
        if namespace in self._refused:
            return True
        message = "Namespace is not read: it does not exist, or the RoleBindings in it are missing. Trying again"
        logger.warning(message, extra=fields(namespace=namespace, cause=str(error)))
        self._refused.add(namespace)
        if namespace in self._readable:
            self._readable.discard(namespace)
            self.changed.set()
        return True

    def answered(self, listed: Collection[str | None]) -> bool:
        """Whether there is an answer for each, of which one at least is more than a refusal."""
        return bool(listed) and {*listed, *self._refused} >= set(self.scope.each)


async def for_each(scope: Scope, work: Callable[[str | None], Coroutine[Any, Any, None]]) -> None:
    """The same work for each namespace, side by side, so that none waits for another."""

    async with asyncio.TaskGroup() as group:
        for namespace in scope.each:
            group.create_task(work(namespace))
