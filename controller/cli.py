"""Command line: `python -m controller bridge` and `python -m controller run`.

This module needs nothing but the standard library, so that it can say what to install where the rest is missing.
"""

from __future__ import annotations

import argparse
import importlib
import os
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

from controller.api import names
from controller.config import Scope, Settings
from controller.errors import ConfigError

#: The package of each process, imported when it is started: the bridge needs no kopf, the controller no Kafka client.
_PROCESSES = {
    "bridge": ("controller.bridge", "turn Kafka records into UserUpdates, for each UpdateStream"),
    "run": ("controller.reconciler", "apply the UserUpdates: each user's in order, every step checkpointed"),
}
#: The requirement by which pip, uv and pipx install everything that both processes import.
DISTRIBUTION = "userupdates[operator]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a process until SIGTERM or SIGINT.

    Exits with 2 for wrong arguments, for a ConfigError, and where a package of the extra `operator` is missing.
    """
    options = _parser().parse_args(arguments)
    host, port = options.metrics_address
    scope = Scope(tuple(dict.fromkeys(options.namespaces)))
    settings = Settings(identity=options.identity, metrics_host=host, metrics_port=port, scope=scope)
    try:
        from controller import logs, process

        work: process.Work = importlib.import_module(_PROCESSES[options.process][0]).run
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] == "controller":
            raise
        _fail(
            f"`python -m controller {options.process}` needs packages that are not installed here ({missing.name} is "
            f"one): pip install '{DISTRIBUTION}', or in a checkout `make .venv/synced` and then .venv/bin/python"
        )
    logs.configure(options.log_level, options.log_format)
    try:
        process.run(work, settings)
    except ConfigError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


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
            help="unique name of this replica, from $POD_NAME if set; a process that restarts under it goes on at once",
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
            help="namespaces whose UpdateStreams this process works on, the same for all replicas; may be repeated "
            "(default: all)",
        )
        process.add_argument(
            "--log-level", choices=["debug", "info", "warning", "error"], default="info", help="how much is logged"
        )
        process.add_argument(
            "--log-format", choices=["text", "json"], default="text", help="whether log lines are text or JSON"
        )
    return parser


def _namespaces(text: str) -> list[str]:
    """Refuses an empty list: a variable that is not set would then mean all namespaces of the cluster."""
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
