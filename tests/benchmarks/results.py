"""What was measured, as JSON: each round of each scenario with all figures of its contenders, machine, versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from devenv import build
from devenv.layout import ROOT
from devenv.sources import Sources
from devenv.versions import release_of
from tests.benchmarks.restate.install import LOCK
from tests.benchmarks.scenario import Scenario

_PACKAGES = (
    "aiohttp",
    "confluent-kafka",
    "httpx",
    "hypercorn",
    "kopf",
    "kubernetes",
    "orjson",
    "restate-sdk",
    "uvloop",
)

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the same figure in several rounds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


@dataclass(slots=True)
class Measured:
    """One scenario: each round has the figures of its contenders, which ran one after the other."""

    scenario: Mapping[str, Any]
    #: When it began, and the code it was measured with.
    time: str
    commit: str
    rounds: list[dict[str, Figures]] = field(default_factory=list)

    def values(self, contender: str, figure: str) -> list[float]:
        return [found[contender][figure] for found in self.rounds if figure in found.get(contender, {})]

    def spread(self, contender: str, figure: str) -> Spread | None:
        """None where it was not measured."""
        values = self.values(contender, figure)
        return Spread.of(values) if values else None

    def ratios(self, contender: str, other: str, figure: str) -> Spread | None:
        """Round by round: neighbours are compared, not averages."""
        pairs = [
            found[contender][figure] / found[other][figure]
            for found in self.rounds
            if figure in found.get(contender, {}) and found.get(other, {}).get(figure)
        ]
        return Spread.of(pairs) if pairs else None


class Results:
    """Of one machine; a scenario that is measured again replaces what was known of it."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.machine = machine()
        self.versions = versions()
        self.scenarios: dict[str, Measured] = {}
        if path is not None and path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["machine"] == self.machine:
                self.scenarios = {name: Measured(**found) for name, found in known["scenarios"].items()}

    @classmethod
    def published(cls, path: Path) -> Results:
        """As they were written, whatever machine this is."""
        known = json.loads(path.read_text(encoding="utf-8"))
        results = cls(None)
        results.machine, results.versions = known["machine"], known["versions"]
        results.scenarios = {name: Measured(**found) for name, found in known["scenarios"].items()}
        return results

    def begin(self, scenario: Scenario) -> Measured:
        """Forget what was known of it."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        self.scenarios[scenario.name] = Measured(asdict(scenario), time, commit())
        return self.scenarios[scenario.name]

    def add(self, measured: Measured, round: int, contender: str, figures: Figures) -> None:
        """Kept at once: an interrupted measurement loses nothing."""
        if len(measured.rounds) <= round:
            measured.rounds.append({})
        measured.rounds[round][contender] = {name: float(f"{value:.5g}") for name, value in figures.items()}
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            whole = {
                "machine": self.machine,
                "versions": self.versions,
                "scenarios": {name: asdict(found) for name, found in self.scenarios.items()},
            }
            self._path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """What figures depend on and names nobody's machine."""
    models = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "memoryGiB": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
    }


def versions() -> dict[str, str]:
    """Of everything that takes part. Peers are as their lock says."""
    locked = json.loads(LOCK.read_text(encoding="utf-8"))["packages"]
    installed = {found.name: found.version for found in metadata.distributions()}
    packages = {name: installed[name] for name in _PACKAGES if name in installed}
    peers = {
        name.removeprefix("node_modules/"): str(locked[name]["version"])
        for name in ("node_modules/@restatedev/restate-server", "node_modules/@restatedev/restate-sdk")
    }
    own = {
        "python": platform.python_version(),
        "kube-apiserver": build.KUBERNETES,
        "etcd": build.ETCD_RELEASE,
        "kafka": build.KAFKA,
        "node": _said("node", "--version").removeprefix("v"),
    }
    return own | packages | peers


def control_plane(sources: Sources) -> dict[str, str]:
    """The versions that run: what setup-envtest has fetched may be another patch than the one that is built."""
    programs = {"kube-apiserver": sources.apiserver, "etcd": sources.etcd}
    found = {name: release_of([str(path), "--version"]) for name, path in programs.items() if path}
    return {name: release for name, release in found.items() if release}


def commit() -> str:
    """The code's commit, with a + where something is not committed; what an earlier `--publish` wrote is no code."""
    code = ("--untracked-files=no", "--", ".", ":!docs")
    dirty = "+" if _said("git", "-C", str(ROOT), "status", "--porcelain", *code) else ""
    return _said("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD") + dirty


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
