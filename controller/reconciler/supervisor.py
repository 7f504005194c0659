"""Background work that outlives its own errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from controller.logs import fields

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


async def keep_running(work: Callable[[], Awaitable[None]], **values: Any) -> None:
    """Run `work` again whenever it ends, until cancelled.

    An unexpected error is logged, with `values` as fields of the line.
    """
    while True:
        try:
            await work()
        except Exception:
            logger.exception("Unexpected error, trying again", extra=fields(**values))
            await asyncio.sleep(RETRY_SECONDS)
