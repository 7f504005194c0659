"""What the bridge counts: before the first list it does not know the counts, and does not write them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controller.api import names
from controller.bridge import object_counts
from controller.bridge.object_counts import ObjectCounts, StreamCounts
from controller.clients.cluster import REJECTED, Cluster, Listing
from controller.config import Scope


def rejected(name: str) -> dict[str, Any]:
    metadata = {"namespace": "default", "name": name, "labels": {names.STREAM_LABEL: "events"}}
    return {"metadata": metadata}


async def test_nothing_is_counted_before_there_was_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []

    async def listed(*_: Any, **__: Any) -> AsyncIterator[Listing]:
        seen.append(counted.count(("default", "events")))
        yield Listing([rejected("a"), rejected("b")], 7)

    cluster: Any = object.__new__(Cluster)
    counted = ObjectCounts(cluster, REJECTED, Scope())
    monkeypatch.setattr(object_counts, "reflect", listed)
    await counted.follow()
    assert [*seen, counted.count(("default", "events")), counted.count(("default", "other"))] == [None, 2, 0]


def test_what_is_not_known_leaves_the_status_as_it_is() -> None:
    before = {"users": {"held": 1, "overflowing": 3}, "counts": {"rejected": 5}}
    assert StreamCounts(overflowing=None, rejected=None).write(before) == before
    assert StreamCounts(overflowing=None, rejected=None).write({}) == {}
    after = StreamCounts(overflowing=0, rejected=6).write(before)
    assert after == {"users": {"held": 1, "overflowing": 0}, "counts": {"rejected": 6}}
