"""UserBacklogs that somebody has deleted: how often each is read and told of."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller.api import names
from controller.bridge.backlogs import orphans
from controller.bridge.backlogs.orphans import REPORTED_AT_ONCE, release_orphans


class Deleted:
    """Of the API server, the watch of backlogs and the recorder what is used: all of them are deleted and kept."""

    def __init__(self, count: int, finalizer: str = names.BACKLOG_FINALIZER) -> None:
        self.deleted = {("default", f"events-{number}"): f"events-{number}" for number in range(count)}
        self._finalizer = finalizer
        self.reads: Counter[str] = Counter()
        self.released: set[str] = set()
        self.told: Counter[tuple[str, str]] = Counter()

    async def get(self, resource: Any, namespace: str, name: str) -> dict[str, Any]:
        self.reads[name] += 1
        metadata = {"uid": name, "resourceVersion": "1", "finalizers": [self._finalizer]}
        return {"metadata": metadata, "spec": {"stream": "events", "partitions": [{"count": 7}]}}

    async def patch(self, resource: Any, namespace: str, name: str, patch: Any) -> None:
        self.released.add(name)
        del self.deleted[namespace, name]

    def event(self, regarding: dict[str, Any], kind: str, reason: str, action: str, note: str) -> None:
        self.told[reason, regarding["name"]] += 1

    async def looks(self, exists: Callable[[Any], bool]) -> None:
        work: Any = release_orphans(cast(Any, SimpleNamespace(cluster=self, backlogs=self, recorder=self)), exists)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await work


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "LOOK_SECONDS", 0.01)


async def test_what_is_kept_for_its_stream_is_read_once_and_told_of_once() -> None:
    """A thousand of them were read every five seconds, for as long as they waited."""
    there = Deleted(2 * REPORTED_AT_ONCE)
    await there.looks(lambda stream: True)
    assert set(there.reads.values()) == set(there.told.values()) == {1}
    assert len(there.told) == 2 * REPORTED_AT_ONCE
    assert not there.released


async def test_a_stream_that_goes_later_lets_them_go() -> None:
    there = Deleted(3)
    await there.looks(lambda stream: not there.told)
    assert len(there.released) == 3
    assert there.told["RecordsGivenUp", "events"] == 1


async def test_what_others_keep_is_theirs() -> None:
    there = Deleted(3, "example.com/backup")
    await there.looks(lambda stream: False)
    assert set(there.reads.values()) == {1}
    assert not there.released | there.told.keys()
