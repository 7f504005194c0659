"""`make bench`: contenders in turns, medians with their spread, ratios round by round, limits beside them."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from devenv.environment import Environment
from devenv.errors import DevenvError
from devenv.layout import ROOT
from tests.benchmarks import limits, report, scenario
from tests.benchmarks.contenders import contender
from tests.benchmarks.results import Figures, Measured, Results, Spread, control_plane
from tests.benchmarks.run import PLAYS
from tests.benchmarks.scenario import Scenario
from tests.benchmarks.stage import Stage, stage

RESULTS = ROOT / ".bench-results.json"
#: What is shown of each kind of scenario, with its format.
SHOWN = {
    "backlog": {"events_per_second": ".0f", "own_cpu_ms": ".2f", "machine_cpu_ms": ".2f", "api_writes": ".2f"},
    "depth": {"events_per_second": ".0f", "own_cpu_ms": ".2f", "memory_kib_an_object.controller": ".2f"},
    "rate": {"p50_ms": ".1f", "p99_ms": ".1f", "own_cpu_ms": ".2f"},
    "start": {"seconds_to_first_call": ".1f"},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured, whatever the figures; 1: interrupted; 2: it could not be."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        given, scenarios = _given(arguments)
    except ValueError as wrong:
        _say(str(wrong))
        return 2
    results = Results(given.output)
    environment = Environment(ROOT / ".bench", progress=_say)
    try:
        with stage(environment, _say) as found:
            results.versions |= control_plane(environment.sources)
            _measure(found, scenarios, results)
    except DevenvError as failed:
        _say(str(failed))
        return 2
    except KeyboardInterrupt:
        _say("interrupted: what was measured until now is kept")
        return 1
    finally:
        _summarise(results, scenarios, judged=not given.quick)
        _say(f"results: {given.output}")
    if given.publish:
        report.main()
    return 0


def _given(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[Scenario]]:
    """Raises ValueError."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    known = scenario.load()
    parser.add_argument("scenarios", nargs="*", help=f"default: all but the tuning; {', '.join(known)}")
    parser.add_argument("--contenders", help="separated by commas, instead of the scenario's")
    parser.add_argument("--repetitions", type=int, help="instead of the scenario's")
    parser.add_argument("--events", type=int, help="instead of the scenario's")
    parser.add_argument("--quick", action="store_true", help="once and with few events: shows that it works, no more")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON; scenarios in it that are not played stay")
    parser.add_argument("--publish", action="store_true", help="into docs/performance: JSON, tables and plots")
    given = parser.parse_args(arguments)
    given.output = report.RESULTS if given.publish else given.output
    changes: dict[str, object] = {"repetitions": given.repetitions, "events": given.events}
    changes["contenders"] = tuple(given.contenders.split(",")) if given.contenders else None
    changes = {name: value for name, value in changes.items() if value is not None}
    found = [replace(one, **changes) for one in scenario.chosen(known, given.scenarios)]  # type: ignore[arg-type]
    for name in {name for one in found for name in one.contenders}:
        contender(name)
    return given, [one.quick() for one in found] if given.quick else found


def _measure(stage: Stage, scenarios: Sequence[Scenario], results: Results) -> None:
    total = sum(one.repetitions * len(one.contenders) for one in scenarios)
    done, begun = 0, time.monotonic()
    for one in scenarios:
        _say(f"\n{one.name}: {one.text}")
        measured = results.begin(one)
        for round in range(one.repetitions):
            # There and back: who comes after whom must not matter.
            for name in one.contenders[:: -1 if round % 2 else 1]:
                figures = PLAYS[one.kind](stage, contender(name, one.spec), one)
                results.add(measured, round, name, figures)
                done += 1
                minutes, seconds = divmod(int(time.monotonic() - begun), 60)
                _say(f"[{done}/{total} {minutes}:{seconds:02d}] {name:<19} {_brief(one, figures)}")


def _brief(one: Scenario, figures: Figures) -> str:
    cpu = ", ".join(f"{name[7:]} {ms:.2f}" for name, ms in figures.items() if name.startswith("cpu_ms."))
    shown = "  ".join(f"{name} {figures[name]:{form}}" for name, form in SHOWN[one.kind].items())
    return f"{shown}  (CPU ms an event: {cpu})" if cpu else shown


def _summarise(results: Results, scenarios: Sequence[Scenario], *, judged: bool) -> None:
    for one in scenarios:
        measured = results.scenarios.get(one.name)
        if measured and measured.rounds:
            _say(f"\n{one.name}: medians of {len(measured.rounds)} rounds (lowest to highest)")
            for name in one.contenders:
                _say(f"  {name:<19} {_row(one, measured, name)}")
    played = {one.name for one in scenarios if judged}
    for limit in limits.load():
        value = limit.value(results) if limit.scenario in played else None
        if value is not None:
            word = "reached" if limit.reached(value) else "MISSED"
            _say(f"{word:<8} {limit.text}: {_text(value, '.2f')}; wanted {limit.wanted}")


def _row(one: Scenario, measured: Measured, name: str) -> str:
    cells = []
    for figure, form in SHOWN[one.kind].items():
        if (spread := measured.spread(name, figure)) is not None:
            cells.append(f"{figure} {_text(spread, form)}")
    return "  ".join(cells)


def _text(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} ({spread.lowest:{form}} to {spread.highest:{form}})"


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
