"""`python -m tests.chaos`: random load, random faults, a verdict; exit code 1 where a guarantee was broken.

The seed is printed; the same seed and sizes play the same workload and the same schedule again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from devenv import lifecycle
from devenv.environment import Environment
from devenv.errors import DevenvError
from tests.chaos import schedule, workload
from tests.chaos.play import Plan, play


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all guarantees held; 1: one was broken; 2: the run could not be made."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="default: a random one")
    parser.add_argument("--runs", type=int, default=1, help="runs with the seeds SEED, SEED + 1, … (default 1)")
    parser.add_argument("--rounds", type=int, default=40, help="faults of each run (default 40)")
    parser.add_argument("--seconds", type=float, default=120.0, help="time of load and faults (default 120)")
    parser.add_argument("--rate", type=float, default=12.0, help="records a second on average (default 12)")
    parser.add_argument("--faults", default="", help="kill:controller,freeze,… (default: all)")
    parser.add_argument("--bridges", type=int, default=2)
    parser.add_argument("--controllers", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="leave the environment running, also where nothing broke")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # that too leaves nothing running
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    try:
        menu = schedule.parse_menu(given.faults)
    except schedule.UnknownFault as unknown:
        parser.error(str(unknown))
    sizes = workload.Sizes(given.seconds, given.rate)
    plans = [Plan(seed + n, given.rounds, sizes, menu, given.bridges, given.controllers) for n in range(given.runs)]
    return _on_environment(plans, keep=given.keep)


def _on_environment(plans: Sequence[Plan], *, keep: bool) -> int:
    kept = os.environ.get("USERUPDATES_DEV_DIR")
    environment = Environment(
        Path(kept) if kept else Path(tempfile.mkdtemp(prefix="userupdates-chaos-")), progress=_say
    )
    broken = 2
    try:
        lifecycle.up_infrastructure(environment)
        os.environ["KUBECONFIG"] = str(environment.kubeconfig)
        broken = sum(not asyncio.run(play(environment, plan, _say)) for plan in plans)
        _say(f"{len(plans) - broken} of {len(plans)} runs kept every guarantee")
    except DevenvError as failed:
        _say(str(failed))
        return 2
    finally:
        if not keep:
            lifecycle.down(environment)
        if broken:
            _say(f"logs: {environment.layout.run}")
        elif not keep and not kept:
            lifecycle.clean(environment)
    return 1 if broken else 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
