"""Runs the end-to-end tests in a kind cluster (`make e2e`), or starts and deletes such a cluster.

Exit code 0: success. 1: a test failed, or one line says what else did.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from devenv.errors import DevenvError
from devenv.kind import engine
from devenv.kind.cluster import KIND, KindEnvironment
from devenv.kind.first import first_event
from devenv.layout import ROOT, default_directory

NAME = "userupdates-e2e"
#: The scenarios that the README promises, with pods instead of processes; then what only a cluster has.
SCENARIOS = ("tests/acceptance/test_seed.py", "tests/acceptance/test_whole_way.py", "tests/e2e")


def main() -> int:
    """Run one command."""
    options = _parser().parse_args()
    environment = KindEnvironment(
        options.name, default_directory() / options.name, progress=lambda line: print(line, flush=True)
    )
    try:
        return int(options.run(environment, options))
    except DevenvError as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1


def _e2e(environment: KindEnvironment, options: argparse.Namespace) -> int:
    started = time.monotonic()
    engine.require()
    try:
        environment.up()
        first_event(environment)
        environment.progress(f"{'first event done':<18} {time.monotonic() - started:6.1f} s after the start")
        failed = _tests(environment, options.arguments or list(SCENARIOS))
    except DevenvError:
        _keep_logs(environment)
        raise
    else:
        if failed:
            _keep_logs(environment)
    finally:
        if not options.keep:
            environment.down()
    environment.progress(f"{'whole':<18} {time.monotonic() - started:6.1f} s")
    return failed


def _tests(environment: KindEnvironment, arguments: list[str]) -> int:
    command = [sys.executable, "-m", "pytest", "-m", "not long", "-rP", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, KIND: str(environment.layout.directory)}).returncode


def _keep_logs(environment: KindEnvironment) -> None:
    folder = environment.layout.directory / "logs"
    try:
        environment.collect_logs(folder)
    except DevenvError as failed:
        print(f"logs not collected: {failed}", file=sys.stderr)
    else:
        print(f"logs of all pods: {folder}", file=sys.stderr)


def _up(environment: KindEnvironment, options: argparse.Namespace) -> int:
    environment.up()
    environment.apply_sample()
    print(f"ready. Now: export KUBECONFIG={environment.kubeconfig}")
    return 0


def _down(environment: KindEnvironment, options: argparse.Namespace) -> int:
    environment.down()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devenv.kind", description=__doc__)
    parser.add_argument("--name", default=NAME, help="name of the cluster and of its directory (default: %(default)s)")
    commands = parser.add_subparsers(required=True, metavar="{e2e,up,down}")
    e2e = commands.add_parser("e2e", help="make a cluster, run the scenarios in it, delete it")
    e2e.add_argument("--keep", action="store_true", help="leave the cluster running")
    e2e.add_argument("arguments", nargs="*", help="arguments of pytest (default: all scenarios)")
    e2e.set_defaults(run=_e2e)
    commands.add_parser("up", help="make a cluster with everything and the sample stream").set_defaults(run=_up)
    commands.add_parser("down", help="delete the cluster").set_defaults(run=_down)
    return parser


if __name__ == "__main__":
    sys.exit(main())
