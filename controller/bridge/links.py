"""The user's last update of a source that is not known to be finished: `spec.source.after` of the next one.

Pure. Never one of another source or a hand-made one: across sources a link could wait for what waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

#: Topic id, partition, user.
Key: TypeAlias = tuple[str, int, str]


class Links:
    def __init__(self) -> None:
        self._last: dict[Key, tuple[int, str]] = {}
        self._keys: dict[str, Key] = {}

    def after(self, key: Key) -> str | None:
        last = self._last.get(key)
        return last[1] if last else None

    def add(self, key: Key, offset: int, name: str) -> None:
        """An update that is not finished; of two of one key the one of the higher offset is the last."""
        last = self._last.get(key)
        if last is not None and last[0] > offset:
            return
        if last is not None:
            self._keys.pop(last[1], None)
        self._last[key] = (offset, name)
        self._keys[name] = key

    def drop(self, name: str) -> None:
        """That update is finished or gone."""
        key = self._keys.pop(name, None)
        if key is not None:
            del self._last[key]

    def listed(self, updates: Iterable[Mapping[str, Any]]) -> None:
        """All unfinished updates; what was known before and is not among them is finished or gone."""
        self._last.clear()
        self._keys.clear()
        for update in updates:
            if source := update["spec"].get("source"):
                key = (source["topicId"], source["partition"], update["spec"]["user"])
                self.add(key, source["offset"], update["metadata"]["name"])
