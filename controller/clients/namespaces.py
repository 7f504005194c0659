"""Tracks which namespaces of `--namespaces` can be read. One that cannot be read does not stop work on the others.

The API server answers 403 both for a namespace that does not exist and for one without rights in it, because objects in
a namespace grant the rights. Either may change at any time, so such a namespace is listed again and again.
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
    """The API server's latest answer to the list of each namespace's streams. A change is logged once."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        #: Set whenever a namespace becomes readable, or stops being readable.
        self.changed = asyncio.Event()
        self._readable: set[str | None] = set()
        self._refused: set[str | None] = set()

    @property
    def readable(self) -> frozenset[str | None]:
        """Namespaces whose streams were listed, and have not been refused since; None stands for all of the cluster."""
        return frozenset(self._readable)

    def reads(self, namespace: str) -> bool:
        """Whether the streams of that namespace are known."""
        return self.scope.of(namespace) in self._readable

    def listed(self, namespace: str | None) -> None:
        """Its streams were listed."""
        if namespace in self._refused:
            logger.info("Namespace is read now", extra=fields(namespace=namespace))
        self._refused.discard(namespace)
        if namespace not in self._readable:
            self._readable.add(namespace)
            self.changed.set()

    def failed(self, namespace: str | None, error: ApiError) -> bool:
        """Its streams could not be listed or watched. True where the namespace is refused, which is then logged here.

        An API server that does not answer says nothing about a namespace. Where a list of all namespaces is refused
        there is nothing else to work on: the caller treats that like any other error.
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
        """Whether each namespace was listed or refused, and at least one was listed."""
        return bool(listed) and {*listed, *self._refused} >= set(self.scope.each)


async def for_each(scope: Scope, work: Callable[[str | None], Coroutine[Any, Any, None]]) -> None:
    """Run the same work for each namespace, side by side, so that none waits for another."""

    async with asyncio.TaskGroup() as group:
        for namespace in scope.each:
            group.create_task(work(namespace))
