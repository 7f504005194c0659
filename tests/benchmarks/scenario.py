"""What is played, from `scenarios.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["backlog", "rate", "depth", "start"]

SCENARIOS = Path(__file__).with_name("scenarios.toml")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One measurement, the same for each of its contenders. `scenarios.toml` says what each kind does."""

    name: str
    kind: Kind
    text: str
    contenders: tuple[str, ...]
    repetitions: int
    #: Users of the measured events; the events of all of them come in turns.
    users: int
    events: int
    #: Events before the measured ones, of the same users.
    warm_up: int = 500
    #: Events a second; for `rate` only.
    rate: float = 0.0
    #: Users that the downstream tells busy, each with one event that is sent before the measured ones.
    busy_users: int = 0
    #: Seconds that the downstream takes for each call.
    latency_seconds: float = 0.0
    #: Fields of the UpdateStream's spec that differ from the defaults.
    spec: dict[str, Any] | None = None
    #: Whether it is played when none is named.
    default: bool = True

    def quick(self) -> Scenario:
        """Small enough to see that everything works: its figures mean nothing."""
        return replace(
            self, repetitions=1, events=min(self.events, 300), warm_up=min(self.warm_up, 50),
            busy_users=min(self.busy_users, 200),
        )  # fmt: skip


def load(path: Path = SCENARIOS) -> dict[str, Scenario]:
    """All scenarios by name, in their order. Raises ValueError where one has a field that none has."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    try:
        scenarios = [Scenario(**{**entry, "contenders": tuple(entry["contenders"])}) for entry in found["scenario"]]
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error
    return {scenario.name: scenario for scenario in scenarios}


def chosen(scenarios: dict[str, Scenario], names: Sequence[str]) -> list[Scenario]:
    """Those named, or all that are played by default. Raises ValueError with the names there are."""
    if unknown := [name for name in names if name not in scenarios]:
        raise ValueError(f"no scenario of the name {unknown[0]!r}; there are {', '.join(scenarios)}")
    return [scenarios[name] for name in names] or [scenario for scenario in scenarios.values() if scenario.default]
