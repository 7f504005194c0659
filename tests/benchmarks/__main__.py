"""`python -m tests.benchmarks`: contenders in alternation, medians with spread, ratios pair by pair."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from controller.devenv.environment import Environment
from controller.devenv.errors import DevenvError
from controller.devenv.layout import ROOT
from tests.benchmarks.backlog import Backlog, BacklogRun, run
from tests.benchmarks.contenders import contender
from tests.benchmarks.stage import SHARED, stage
from tests.benchmarks.summary import Spread, ratios


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--contenders", default="every-step,limit", help="separated by commas; the last is the base")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--events", type=int, default=3000)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=500)
    parser.add_argument("--output", type=Path, help="results as JSON")
    given = parser.parse_args(arguments)
    names = given.contenders.split(",")
    scenario = Backlog(given.events, given.users, given.warm_up)
    runs: dict[str, list[BacklogRun]] = {name: [] for name in names}
    try:
        with stage(Environment(ROOT / ".bench", progress=_say), _say) as found:
            for round in range(given.repetitions):
                for name in names:
                    one = run(found, contender(name), scenario)
                    runs[name].append(one)
                    cpu = ", ".join(f"{part} {ms:.2f}" for part, ms in one.cost.cpu_ms.items())
                    _say(
                        f"{round + 1}/{given.repetitions} {name:<12} {one.events_per_second:6.1f} events/s; CPU ms an"
                        f" event: {cpu}; machine {one.cost.machine_ms:.2f}; {one.cost.writes:.2f} writes,"
                        f" {one.cost.watch_events:.2f} watch events"
                    )
    except DevenvError as failed:
        _say(str(failed))
        return 2
    except KeyboardInterrupt:
        _say("interrupted")
    if given.output:
        given.output.write_text(json.dumps({name: [asdict(one) for one in found] for name, found in runs.items()}))
    _print(runs, names)
    return 0


def _print(runs: dict[str, list[BacklogRun]], names: Sequence[str]) -> None:
    base = names[-1]
    for name in names:
        if not (mine := [one.events_per_second for one in runs[name]]):
            continue
        own = [sum(ms for part, ms in one.cost.cpu_ms.items() if part not in SHARED) for one in runs[name]]
        theirs = [one.events_per_second for one in runs[base]][: len(mine)]
        ratio = f"{ratios(mine[: len(theirs)], theirs):.2f}" if theirs else ""
        _say(f"{name:<12} events/s {Spread.of(mine):.1f}; own CPU {Spread.of(own):.2f} ms; ratio to {base} {ratio}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
