"""Answers requests to finished updates: none of them can be done, and the status says so to the person who asked."""

from __future__ import annotations

import asyncio
import logging

from controller import errors
from controller.api.user_update import UserUpdate
from controller.core.decisions import refusal
from controller.logs import retrying
from controller.reconciler.checkpoints import Superseded, UpdateGone, write_status
from controller.reconciler.context import ShardContext

logger = logging.getLogger(__name__)

#: Seconds until what the API server could not write is tried again.
RETRY_SECONDS = 2.0


class RefusalWriter:
    """Writes the refusals one after the other: none is urgent, and there are thousands if a person asks for all."""

    def __init__(self, context: ShardContext) -> None:
        self._context = context
        #: Finished updates with a request that is not answered yet, by name.
        self._requested: dict[str, UserUpdate] = {}
        self._task: asyncio.Task[None] | None = None

    def check(self, update: UserUpdate) -> None:
        """A finished update, as the API server has it. Answer its request, if it has one."""
        if refusal(update, self._context.now()) is None:
            return
        self._requested[update.name] = update
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write_all())

    def clear(self) -> None:
        """Write nothing more: another controller may work on the stream, and answers then."""
        self._requested = {}
        if self._task:
            self._task.cancel()

    async def _write_all(self) -> None:
        while self._requested:
            update = self._requested.pop(next(iter(self._requested)))
            try:
                await self._write(update)
            except (UpdateGone, Superseded):
                pass
            except errors.Unavailable as error:
                retrying(logger, "Request not answered, trying again", error, update=update.name)
                self._requested.setdefault(update.name, update)  # a newer version may have come meanwhile
                await asyncio.sleep(RETRY_SECONDS)
            except errors.ApiError as error:  # refused: it is tried again when finished updates are listed again
                retrying(logger, "Request not answered", error, update=update.name)

    async def _write(self, update: UserUpdate) -> None:
        while refused := refusal(update, self._context.now()):
            before = update.status
            update = await write_status(self._context, update, refused)
            if update.status == refused:
                self._context.events.update_changed(update, before)
