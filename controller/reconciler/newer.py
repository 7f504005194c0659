"""Newer versions of an update that the watch has shown while a call or a write of it is under way, by name.

They are looked at when it is over. An immutable mapping: most lanes have none, and there may be ten thousand lanes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

#: resourceVersion by the name of the update.
NewerVersions: TypeAlias = Mapping[str, int]
NONE: NewerVersions = MappingProxyType({})


def with_version(versions: NewerVersions, name: str, version: int) -> NewerVersions:
    """With that version of the update, unless a newer one is known."""
    return {**versions, name: max(version, versions.get(name, 0))}


def without(versions: NewerVersions, name: str) -> NewerVersions:
    """Without that of this update."""
    if name not in versions:
        return versions
    return {other: version for other, version in versions.items() if other != name} or NONE
