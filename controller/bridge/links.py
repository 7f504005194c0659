"""The user's last update of a source below a record that is not known to be finished: its `spec.source.after`.

Pure. Never one of another source or a hand-made one: across sources a link could wait for what waits for it. Nor one
that comes later in the source: a record that is read again, as somebody deleted its update, would wait for the update
that waits for it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

#: Topic id, partition, user.
Key: TypeAlias = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Link:
    name: str
    #: The object was there at this version.
    version: int


class Links:
    def __init__(self) -> None:
        #: Unfinished updates of each key by offset: when the last one is skipped the one before it is the last.
        self._unfinished: dict[Key, dict[int, Link]] = {}
        self._keys: dict[str, tuple[Key, int]] = {}

    def after(self, key: Key, offset: int) -> str | None:
        """What the record at that offset comes after."""
        unfinished = self._unfinished.get(key, {})
        last = max((other for other in unfinished if other < offset), default=None)
        return unfinished[last].name if last is not None else None

    def add(self, key: Key, offset: int, name: str, version: int) -> None:
        """An update that is not finished."""
        self._unfinished.setdefault(key, {})[offset] = Link(name, version)
        self._keys[name] = key, offset

    def drop(self, name: str) -> None:
        """That update is finished or gone."""
        if name not in self._keys:
            return
        key, offset = self._keys.pop(name)
        del self._unfinished[key][offset]
        if not self._unfinished[key]:
            del self._unfinished[key]

    def keep(self, names: Container[str], version: int) -> None:
        """At that version these were all that was unfinished; what is newer is kept."""
        links = [link for unfinished in self._unfinished.values() for link in unfinished.values()]
        for link in links:
            if link.version <= version and link.name not in names:
                self.drop(link.name)

    def listed(self, updates: Iterable[Mapping[str, Any]], version: int) -> None:
        """All unfinished updates at that version, as whole objects."""
        bodies = {update["metadata"]["name"]: update["spec"] for update in updates}
        self.keep(bodies, version)
        for name, spec in bodies.items():
            if source := spec.get("source"):
                key = (source["topicId"], source["partition"], spec["user"])
                self.add(key, source["offset"], name, version)
