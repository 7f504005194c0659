"""Requests to finished updates: none can be done, and whoever asked is told so."""

from __future__ import annotations

import asyncio
import logging

from controller import errors
from controller.api.user_update import UserUpdate
from controller.core.decisions import refusal
from controller.logs import retrying
from controller.reconciler.checkpoints import Gone, Superseded, write_status
from controller.reconciler.context import StreamContext

logger = logging.getLogger(__name__)

#: Seconds until what the API server could not write is tried again.
RETRY_SECONDS = 2.0


class Answering:
    """Writes the refusals one after the other: there may be thousands, if a person asks for all, and none is urgent."""

    def __init__(self, context: StreamContext) -> None:
        self._context = context
        self._asked: dict[str, UserUpdate] = {}
        self._task: asyncio.Task[None] | None = None

    def notice(self, update: UserUpdate) -> None:
        """A finished update as the API server has it."""
        if refusal(update, self._context.now()) is None:
            return
        self._asked[update.name] = update
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._answer_all())

    def clear(self) -> None:
        """Somebody else may work on the stream: it is theirs to tell."""
        self._asked = {}
        if self._task:
            self._task.cancel()

    async def _answer_all(self) -> None:
        while self._asked:
            update = self._asked.pop(next(iter(self._asked)))
            try:
                await self._answer(update)
            except (Gone, Superseded):
                pass
            except errors.Unavailable as error:
                retrying(logger, "Request not answered, trying again", error, update=update.name)
                self._asked.setdefault(update.name, update)  # a newer version may have been met meanwhile
                await asyncio.sleep(RETRY_SECONDS)
            except errors.ApiError as error:  # refused; it is met again when finished updates are listed
                retrying(logger, "Request not answered", error, update=update.name)

    async def _answer(self, update: UserUpdate) -> None:
        while refused := refusal(update, self._context.now()):
            before = update.status
            update = await write_status(self._context, update, refused)
            if update.status == refused:
                self._context.announcer.update_changed(update, before)
