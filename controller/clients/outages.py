"""Whether the API server answers: a line when it does not, one each minute, one when it does again.

All who ask it would write lines of their own otherwise, each of them several a second.
"""

from __future__ import annotations

import logging
import time

from controller.logs import fields

logger = logging.getLogger(__name__)

#: Seconds without any answer after which it is said: a connection that breaks is no outage.
PATIENCE_SECONDS = 3.0
#: Seconds between two lines of one outage.
REMINDER_SECONDS = 60.0


class Outage:
    """Told of each request. Times are of the monotonic clock."""

    def __init__(self) -> None:
        #: When the first request was not answered, of those since the last answer; None: the last one was.
        self._since: float | None = None
        self._told: float | None = None

    def answered(self) -> None:
        """An answer has come, whatever it was."""
        if self._told is not None and self._since is not None:
            seconds = round(time.monotonic() - self._since)
            logger.info("The API server answers again", extra=fields(seconds=seconds))
        self._since = self._told = None

    def unanswered(self, cause: str) -> None:
        """A request has got no answer."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        last = self._told if self._told is not None else self._since + PATIENCE_SECONDS - REMINDER_SECONDS
        if now - last >= REMINDER_SECONDS:
            self._told = now
            logger.warning(
                "The API server does not answer", extra=fields(seconds=round(now - self._since), cause=cause)
            )
