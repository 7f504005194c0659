"""What the figures must be, from `limits.toml`, and whether they are."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.results import Measured, Results, Spread

LIMITS = Path(__file__).with_name("limits.toml")


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure of a contender, or its ratio to another contender's or another scenario's."""

    text: str
    scenario: str
    contender: str
    figure: str
    #: The contender whose figure it is divided by, round by round.
    of: str = ""
    #: The scenario whose median it is divided by.
    of_scenario: str = ""
    at_least: float | None = None
    at_most: float | None = None
    #: What is wanted beyond that.
    aim: float | None = None

    @property
    def wanted(self) -> str:
        bound = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
        return bound + (f", aim {self.aim:g}" if self.aim is not None else "")

    def reached(self, value: Spread) -> bool:
        if self.at_least is not None:
            return value.median >= self.at_least
        return self.at_most is not None and value.median <= self.at_most

    def value(self, results: Results) -> Spread | None:
        """None where it was not measured."""
        measured = results.scenarios.get(self.scenario)
        if measured is None:
            return None
        if self.of:
            return measured.ratios(self.contender, self.of, self.figure)
        found = measured.spread(self.contender, self.figure)
        if self.of_scenario and found:
            return self._against(found, results.scenarios.get(self.of_scenario))
        return found

    def _against(self, found: Spread, other: Measured | None) -> Spread | None:
        base = other.spread(self.contender, self.figure) if other else None
        if base is None:
            return None
        return Spread(found.median / base.median, found.lowest / base.median, found.highest / base.median)


def load(path: Path = LIMITS) -> list[Limit]:
    """Raises ValueError where one has a field that none has, or no bound."""
    entries: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))["limit"]
    try:
        limits = [Limit(**entry) for entry in entries]
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error
    for limit in limits:
        if (limit.at_least is None) == (limit.at_most is None):
            raise ValueError(f"{path}: {limit.text}: either at_least or at_most")
    return limits
