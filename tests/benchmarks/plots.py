"""The plots of docs/performance.md, as SVG: the same bytes for the same results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.benchmarks.results import Measured, Results, Spread

COLOURS = {
    "every-step": "#1f77b4",
    "coalesced": "#17becf",
    "restate-python": "#ff7f0e",
    "restate-typescript": "#d62728",
    "limit": "#7f7f7f",
}
PARTS = (
    "apiserver",
    "etcd",
    "kafka",
    "bridge",
    "controller",
    "limit",
    "restate",
    "restate-python",
    "restate-typescript",
)
STYLE = {
    "svg.hashsalt": "userupdates",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


def draw(results: Results, folder: Path) -> None:
    """Needs matplotlib, of the dependency group `bench`."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    with pyplot.rc_context(STYLE):
        for name, fill in _PLOTS.items():
            figure, axes = pyplot.subplots(figsize=(6.4, 3.2), layout="constrained")
            fill(axes, results.scenarios)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
            pyplot.close(figure)


def _throughput(axes: Any, scenarios: dict[str, Measured]) -> None:
    found = scenarios["backlog"]
    names = [name for name in COLOURS if found.spread(name, "events_per_second")]
    spreads = [_of(found, name, "events_per_second") for name in names]
    axes.barh(names, [one.median for one in spreads], xerr=_errors(spreads), color=[COLOURS[name] for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("events/s of a backlog; median, lowest and highest")


def _cpu(axes: Any, scenarios: dict[str, Measured]) -> None:
    found = scenarios["backlog"]
    names = [name for name in COLOURS if found.spread(name, "own_cpu_ms")]
    left = [0.0] * len(names)
    for part in PARTS:
        widths = [spread.median if (spread := found.spread(name, f"cpu_ms.{part}")) else 0.0 for name in names]
        if any(widths):
            axes.barh(names, widths, left=left, label=part)
            left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("ms of CPU an event, by process")
    _legend(axes, columns=2)


def _lines(axes: Any, scenarios: dict[str, Measured], names: dict[int, str], figure: str, style: str) -> None:
    for contender, colour in COLOURS.items():
        points = [
            (number, found.median)
            for number, name in names.items()
            if name in scenarios and (found := scenarios[name].spread(contender, figure))
        ]
        if points:
            label = f"{contender} {figure.removesuffix('_ms')}" if figure.startswith("p") else contender
            axes.plot(*zip(*points, strict=True), style, color=colour, label=label)


def _users(axes: Any, scenarios: dict[str, Measured]) -> None:
    names = {10: "backlog-10-users", 100: "backlog-100-users", 1000: "backlog", 10000: "backlog-10000-users"}
    _lines(axes, scenarios, names, "events_per_second", "o-")
    axes.set(xscale="log", xlabel="users in the backlog", ylabel="events/s", ylim=(0, None))
    _legend(axes)


def _latency(axes: Any, scenarios: dict[str, Measured]) -> None:
    names = {10: "rate-10", 20: "rate-20", 50: "rate-50", 100: "rate-100", 200: "rate-200"}
    _lines(axes, scenarios, names, "p50_ms", "o-")
    _lines(axes, scenarios, names, "p99_ms", "o:")
    axes.set(xlabel="events/s", ylabel="ms from produce to last call", yscale="log")
    _legend(axes, columns=2)


def _depth(axes: Any, scenarios: dict[str, Measured]) -> None:
    names = {100: "depth-100", 1000: "depth-1000", 10000: "depth-10000"}
    _lines(axes, scenarios, names, "own_cpu_ms", "o-")
    axes.set(xscale="log", xlabel="unfinished updates", ylabel="ms of CPU an event", ylim=(0, None))
    _legend(axes)


def _legend(axes: Any, columns: int = 1) -> None:
    """Where there is something to explain: a scenario may not have been measured."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, ncols=columns)


_PLOTS = {"throughput": _throughput, "cpu": _cpu, "users": _users, "latency": _latency, "depth": _depth}


def _of(found: Measured, contender: str, figure: str) -> Spread:
    spread = found.spread(contender, figure)
    assert spread is not None
    return spread


def _errors(spreads: list[Spread]) -> list[list[float]]:
    below = [one.median - one.lowest for one in spreads]
    return [below, [one.highest - one.median for one in spreads]]
