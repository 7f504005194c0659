"""Command line: `python -m controller bridge` and `python -m controller run`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence

from controller import eventloop, logs
from controller.api import names
from controller.config import Scope, Settings
from controller.errors import ConfigError
from controller.health import Health, serve

logger = logging.getLogger(__name__)

_Process = Callable[[Settings, asyncio.Event, Health], Awaitable[None]]
#: Objects made and not freed before cycles are looked for among the youngest; how many such looks before one at older
#: ones. Of an event's cost here Python's 700, 10, 10 take a quarter, and stop everything for longer the more there is.
GC_THRESHOLDS = (10_000, 10, 10)
#: Files that a process may have open at most where its hard limit is infinite (macOS).
OPEN_MAX = 10_240
#: The package with the process's `run`, imported when it is wanted: the bridge needs no kopf, the controller no Kafka.
_PROCESSES = {
    "bridge": ("controller.bridge", "turn Kafka records into UserUpdates, for each UpdateStream"),
    "run": ("controller.reconciler", "apply the UserUpdates: each user's in order, every step checkpointed"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a process until SIGTERM or SIGINT; exit with 2 where it was started wrongly."""
    options = _parser().parse_args(arguments)
    logs.configure(options.log_level, options.log_format)
    _raise_open_files()
    host, port = options.metrics_address
    scope = Scope(tuple(dict.fromkeys(options.namespaces)))
    settings = Settings(identity=options.identity, metrics_host=host, metrics_port=port, scope=scope)
    try:
        process: _Process = importlib.import_module(_PROCESSES[options.process][0]).run
        _collect_seldom()
        eventloop.run(_until_stopped(process, settings))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _collect_seldom() -> None:
    """What has been imported stays anyway: it is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _raise_open_files() -> None:
    """A connection for each call in flight: the usual soft limit of 1,024 is too few.

    macOS says that its hard limit is infinite, and refuses to set more than OPEN_MAX.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, OPEN_MAX):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return
        except (ValueError, OSError) as error:
            logger.debug("Open files not raised to %d: %s", wanted, error)
    logger.warning("At most %d files and connections may be open at a time: raise it with ulimit -n", soft)


async def _until_stopped(process: _Process, settings: Settings) -> None:
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    health = Health()
    async with serve(settings, health):
        await process(settings, stop, health)
    logger.info("Stopped", extra=logs.fields(identity=settings.identity))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m controller",
        description="Turns Kafka events into UserUpdate resources and applies each user's updates in order.",
    )
    processes = parser.add_subparsers(dest="process", required=True, metavar="{bridge,run}")
    for name, (_, text) in _PROCESSES.items():
        process = processes.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        process.add_argument(
            "--identity",
            default=os.environ.get("POD_NAME") or socket.gethostname(),
            help="unique name of this replica; a restarted process of the same name goes on at once ($POD_NAME)",
        )
        process.add_argument(
            "--metrics-address",
            type=_address,
            default="0.0.0.0:8080",
            metavar="HOST:PORT",
            help="where /metrics, /healthz and /readyz are served",
        )
        process.set_defaults(namespaces=[])
        process.add_argument(
            "--namespaces",
            type=_namespaces,
            action="extend",
            default=argparse.SUPPRESS,  # of the help, which would show it as []
            metavar="NAME[,NAME…]",
            help="work on UpdateStreams of these namespaces alone, the same for all replicas; may be repeated "
            "(default: all)",
        )
        process.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
        process.add_argument("--log-format", choices=["text", "json"], default="text")
    return parser


def _namespaces(text: str) -> list[str]:
    """An empty list is refused: it may come of a variable that is not set, and would mean all of the cluster."""
    found = [name.strip() for name in text.split(",")]
    for name in found:
        if not names.is_namespace(name):
            raise argparse.ArgumentTypeError(
                f"{name!r} is no name of a namespace: up to 63 lower-case letters, digits and hyphens, "
                "a letter or digit at either end"
            )
    return found


def _address(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]") or "0.0.0.0", int(port)
