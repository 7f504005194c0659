"""`python -m tests.benchmarks.report`: the tables of docs/performance.md, from docs/performance/results.json."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from devenv.layout import ROOT
from tests.benchmarks import limits, plots
from tests.benchmarks.results import Measured, Results, Spread

PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / "docs" / "performance"
RESULTS = FOLDER / "results.json"
BEGIN, END = "<!-- begin: python -m tests.benchmarks.report -->", "<!-- end -->"
NAMES = {
    "every-step": "this project, EveryStep",
    "coalesced": "this project, Coalesced",
    "restate-python": "Restate, Python SDK",
    "restate-typescript": "Restate, TypeScript SDK",
    "limit": "bare limit",
}
#: Whose memory is shown.
REMEMBERING = ("bridge", "controller", "apiserver", "etcd", "kafka")
SHARED = ("apiserver", "etcd", "kafka", "bench-downstream")
USERS = {
    "10 users": "backlog-10-users",
    "100 users": "backlog-100-users",
    "1,000 users": "backlog",
    "10,000 users": "backlog-10000-users",
}
RATES = {"10/s": "rate-10", "20/s": "rate-20", "50/s": "rate-50", "100/s": "rate-100", "200/s": "rate-200"}
DEPTHS = {100: "depth-100", 1000: "depth-1000", 10000: "depth-10000"}
BUSY = {
    "20/s, 0 busy": "rate-20",
    "20/s, 100 busy": "isolation-100-rate-20",
    "50/s, 0 busy": "rate-50",
    "50/s, 1 busy": "isolation-1",
    "50/s, 100 busy": "isolation-100",
}


def main() -> int:
    """Write tables and plots anew."""
    results = Results.published(RESULTS)
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    plots.draw(results, FOLDER)
    return 0


def with_tables(page: str, results: Results) -> str:
    """The page with what lies between the two marks replaced."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{tables(results)}\n{END}{tail}"


def tables(results: Results) -> str:
    sections = [
        _where(results),
        _limits(results),
        _backlog(results),
        _by_users(results),
        _by_rate(results),
        _by_busy(results),
        _by_depth(results),
        _others(results),
    ]
    return "\n\n".join(filter(None, sections))


def _where(results: Results) -> str:
    machine, versions = results.machine, results.versions
    times = sorted(found.time[:16] for found in results.scenarios.values())
    commits = ", ".join(sorted({found.commit for found in results.scenarios.values()}))
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    hardware = f"{machine['cores']} cores of {machine['processor']}, {machine['memoryGiB']} GiB, {machine['system']}"
    return f"Measured from {times[0]} to {times[-1]} UTC with commit {commits} on {hardware}. {said}."


def _limits(results: Results) -> str:
    rows = []
    for limit in limits.load():
        value = limit.value(results)
        if value is not None:
            rows.append(
                [limit.text, spread(value, ".2f"), limit.wanted, "reached" if limit.reached(value) else "missed"]
            )
    return _table(["what it must show", "median (lowest to highest)", "wanted", ""], rows)


def _backlog(results: Results) -> str:
    found = results.scenarios.get("backlog")
    if found is None:
        return ""
    rows = []
    for name in _contenders(found):
        own = found.spread(name, "own_cpu_ms")
        shared = [found.spread(name, f"cpu_ms.{part}") for part in SHARED]
        kib = found.spread(name, "etcd_bytes")
        rows.append(
            [
                NAMES[name],
                spread(found.spread(name, "events_per_second"), ".0f"),
                middle(found.ratios(name, "limit", "events_per_second"), ".2f"),
                middle(found.ratios(name, "restate-python", "events_per_second"), ".2f"),
                middle(own, ".2f"),
                *(middle(part, ".2f") for part in shared),
                middle(found.spread(name, "api_writes"), ".2f"),
                middle(found.spread(name, "watch_events"), ".2f"),
                f"{kib.median / 1024:.1f}" if kib else "",
                middle(found.spread(name, "own_memory_mib"), ".0f"),
            ]
        )
    head = ["", "events/s", "to the limit", "to Restate, Python", "own CPU", "apiserver", "etcd", "kafka", "downstream"]
    head += ["API writes", "watch events", "KiB to etcd", "own MiB"]
    title = (
        f"**Throughput of {found.scenario['text']}**, {len(found.rounds)} rounds; CPU in ms an event, counts an event"
    )
    return f"{title}\n\n{_table(head, rows)}"


def _by_users(results: Results) -> str:
    return _matrix(results, "**Events a second of a backlog, by users**", USERS, "events_per_second", ".0f")


def _by_rate(results: Results) -> str:
    title = "**Milliseconds from produce to last call, at a fixed rate** (p50; p99)"
    return _matrix(results, title, RATES, "p50_ms", ".1f", "p99_ms")


def _by_busy(results: Results) -> str:
    title = "**Milliseconds from produce to last call of others, while users are busy** (p50; p99)"
    return _matrix(results, title, BUSY, "p50_ms", ".1f", "p99_ms", ("every-step", "coalesced"))


def _by_depth(results: Results) -> str:
    found = {objects: results.scenarios[name] for objects, name in DEPTHS.items() if name in results.scenarios}
    if not found:
        return ""
    rows = [["0", "", "", "", *_memory(next(iter(found.values())), "memory_mib_without"), ""]]
    for objects, measured in found.items():
        rows.append(
            [
                f"{objects:,}",
                spread(measured.spread("every-step", "events_per_second"), ".0f"),
                spread(measured.spread("every-step", "own_cpu_ms"), ".2f"),
                middle(measured.spread("every-step", "cpu_ms.apiserver"), ".2f"),
                *_memory(measured, "memory_mib_with_objects"),
                middle(measured.spread("every-step", "memory_kib_an_object.controller"), ".1f"),
            ]
        )
    head = ["unfinished", "events/s", "own CPU", "apiserver", *(f"{part} MiB" for part in REMEMBERING)]
    title = "**Beside unfinished updates** (EveryStep, a backlog of 2,000 events of 1,000 users; CPU in ms an event)"
    return f"{title}\n\n{_table([*head, 'controller KiB an object'], rows)}"


def _memory(measured: Measured, figure: str) -> list[str]:
    return [middle(measured.spread("every-step", f"{figure}.{part}"), ".0f") for part in REMEMBERING]


def _others(results: Results) -> str:
    lines = []
    if found := results.scenarios.get("start-10000"):
        seconds = spread(found.spread("every-step", "seconds_to_first_call"), ".1f")
        lines.append(f"From a controller's start to its first call, with 10,000 updates waiting: {seconds} s.")
    if found := results.scenarios.get("collection"):
        speed = spread(found.spread("every-step", "events_per_second"), ".0f")
        writes = middle(found.spread("every-step", "api_writes"), ".2f")
        lines.append(f"With collection ({found.scenario['text']}): {speed} events/s, {writes} API writes an event.")
    return "\n\n".join(lines)


def _matrix(
    results: Results,
    title: str,
    scenarios: dict[str, str],
    figure: str,
    form: str,
    second: str = "",
    contenders: Sequence[str] = tuple(NAMES),
) -> str:
    """Contenders down, scenarios across."""
    there = {column: results.scenarios[name] for column, name in scenarios.items() if name in results.scenarios}
    rows = []
    for name in contenders:
        cells = [_cell(found, name, figure, form, second) for found in there.values()]
        if any(cells):
            rows.append([NAMES[name], *cells])
    return f"{title}\n\n{_table(['', *there], rows)}" if rows else ""


def _cell(found: Measured, name: str, figure: str, form: str, second: str) -> str:
    parts = [middle(found.spread(name, one), form) for one in (figure, second) if one]
    return "; ".join(filter(None, parts))


def _contenders(found: Measured) -> list[str]:
    return [name for name in NAMES if any(name in figures for figures in found.rounds)]


def spread(value: Spread | None, form: str) -> str:
    if value is None:
        return ""
    return f"{value.median:{form}} ({value.lowest:{form}} to {value.highest:{form}})"


def middle(value: Spread | None, form: str) -> str:
    return "" if value is None else f"{value.median:{form}}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
