"""Medians with their spread, and ratios pair by pair: what ran one after the other is compared, not two averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def __format__(self, spec: str) -> str:
        spec = spec or ".0f"
        return f"{self.median:{spec}} ({self.lowest:{spec}} to {self.highest:{spec}})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of the runs of each round: they were neighbours."""
    return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=True)])
