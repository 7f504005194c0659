"""Logs outages of the API server: a line when it stops answering, one each minute, one when it answers again.

Otherwise each caller would log its own failed requests, several a second.
"""

from __future__ import annotations

import logging
import time

from controller.logs import fields

logger = logging.getLogger(__name__)

#: Seconds without any answer after which an outage is logged: a connection that breaks is none.
PATIENCE_SECONDS = 3.0
#: Seconds between two lines of one outage.
REMINDER_SECONDS = 60.0


class Outage:
    """The state of one API server, by the result of each request. Times are monotonic."""

    def __init__(self) -> None:
        #: When the first request since the last answer failed; None: the last request was answered.
        self._since: float | None = None
        #: When the last line of this outage was logged; None: none was.
        self._logged: float | None = None

    def answered(self) -> None:
        """A request was answered, whatever the answer was."""
        if self._logged is not None and self._since is not None:
            seconds = round(time.monotonic() - self._since)
            logger.info("The API server answers again", extra=fields(seconds=seconds))
        self._since = self._logged = None

    def unanswered(self, cause: str) -> None:
        """A request was not answered. `cause` is for people."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        last = self._logged if self._logged is not None else self._since + PATIENCE_SECONDS - REMINDER_SECONDS
        if now - last >= REMINDER_SECONDS:
            self._logged = now
            logger.warning(
                "The API server does not answer", extra=fields(seconds=round(now - self._since), cause=cause)
            )
