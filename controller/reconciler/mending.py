"""The Secrets of steps whose calls are refused are read until one has changed; then those who wait are called at once.

The watch of the streams shows a changed url. No watch shows a changed Secret: who may watch Secrets may list them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from controller import errors
from controller.reconciler.context import StreamContext

#: Seconds between looks; a Secret is read less often than that.
LOOK_SECONDS = 3.0


async def follow_secrets(context: StreamContext, wake_all: Callable[[], None]) -> None:
    """For ever. Lanes are woken a few at a time, so that many do not call in the same moment."""
    woken = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        await context.lease.wait_held()
        for step, endpoint in context.stream.steps.items():
            if endpoint.secret_name and context.health.refused(step):
                with contextlib.suppress(errors.ApiError):
                    await context.shared.credentials.read(endpoint.secret_name)
        secrets = [endpoint.secret_name for endpoint in context.stream.steps.values()]
        changed = max(map(context.shared.credentials.changed_at, secrets))
        if changed > woken:
            woken = changed
            wake_all()
