"""The user's last update of a source that is not known to be finished: `spec.source.after` of the next one.

Pure. Never one of another source or a hand-made one: across sources a link could wait for what waits for it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

#: Topic id, partition, user.
Key: TypeAlias = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Link:
    offset: int
    name: str
    #: The object was there at this version.
    version: int


class Links:
    def __init__(self) -> None:
        self._last: dict[Key, Link] = {}
        self._keys: dict[str, Key] = {}

    def after(self, key: Key) -> str | None:
        link = self._last.get(key)
        return link.name if link else None

    def add(self, key: Key, offset: int, name: str, version: int) -> None:
        """An update that is not finished; of two of one key the one of the higher offset is the last."""
        last = self._last.get(key)
        if last is not None and last.offset > offset:
            return
        if last is not None:
            self._keys.pop(last.name, None)
        self._last[key] = Link(offset, name, version)
        self._keys[name] = key

    def drop(self, name: str) -> None:
        """That update is finished or gone."""
        key = self._keys.pop(name, None)
        if key is not None:
            del self._last[key]

    def keep(self, names: Container[str], version: int) -> None:
        """At that version these were all that was unfinished; what is newer is kept."""
        over = [link.name for link in self._last.values() if link.version <= version and link.name not in names]
        for name in over:
            self.drop(name)

    def listed(self, updates: Iterable[Mapping[str, Any]], version: int) -> None:
        """All unfinished updates at that version, as whole objects."""
        bodies = {update["metadata"]["name"]: update["spec"] for update in updates}
        self.keep(bodies, version)
        for name, spec in bodies.items():
            if source := spec.get("source"):
                key = (source["topicId"], source["partition"], spec["user"])
                self.add(key, source["offset"], name, version)
