"""Versions of an update in hand that the watch has shown meanwhile, by name; looked at when the call or write is over.

An immutable mapping: most lanes have none, and there may be ten thousand.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

Rumours: TypeAlias = Mapping[str, int]
NONE: Rumours = MappingProxyType({})


def heard(rumours: Rumours, name: str, version: int) -> Rumours:
    """With that version, where it is the newest."""
    return {**rumours, name: max(version, rumours.get(name, 0))}


def settled(rumours: Rumours, name: str) -> Rumours:
    """Without those of that update."""
    if name not in rumours:
        return rumours
    return {other: version for other, version in rumours.items() if other != name} or NONE
