"""Runs one of the two processes until a signal stops it."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
from collections.abc import Awaitable, Callable

from controller import eventloop, logs
from controller.config import Settings
from controller.health import Health, serve

logger = logging.getLogger(__name__)

#: The `run` of the bridge or of the reconciler.
Work = Callable[[Settings, asyncio.Event, Health], Awaitable[None]]
#: Thresholds of Python's garbage collector. Its own (700, 10, 10) take a quarter of an event's cost here, and the
#: pauses grow with the number of objects.
GC_THRESHOLDS = (10_000, 10, 10)
#: Open files to ask for where the hard limit is infinite (macOS).
OPEN_MAX = 10_240


def run(work: Work, settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, and serve /metrics, /healthz and /readyz meanwhile.

    Raises ConfigError where the process cannot run with its settings.
    """
    _raise_open_files()
    _collect_seldom()
    eventloop.run(_until_stopped(work, settings))


def _collect_seldom() -> None:
    """Imported modules stay for good, so the garbage collector need not look at them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _raise_open_files() -> None:
    """Each call in flight has a connection, so the usual soft limit of 1,024 open files is too low.

    macOS reports an infinite hard limit, and refuses more than OPEN_MAX.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, OPEN_MAX):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return
        except (ValueError, OSError) as error:
            logger.debug("Open files not raised to %d: %s", wanted, error)
    logger.warning("At most %d files and connections may be open at a time: raise it with ulimit -n", soft)


async def _until_stopped(work: Work, settings: Settings) -> None:
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    health = Health()
    async with serve(settings, health):
        await work(settings, stop, health)
    logger.info("Stopped", extra=logs.fields(identity=settings.identity))
