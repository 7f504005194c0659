"""The working set while it is listed anew: creates and the watch go on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller.bridge import working_set_reflector
from controller.bridge.dispatch import Dispatcher
from controller.bridge.rejected_events import RejectedEvents
from controller.bridge.working_set import WorkingSet
from controller.bridge.working_set_reflector import WorkingSetReflector
from controller.clients.cluster import Listing
from controller.core.records import UpdateEvent, read_record
from tests.support.bridge import make_consumer_context
from tests.support.records import make_record


def event(offset: int) -> UpdateEvent:
    found = read_record(make_record(offset=offset))
    assert isinstance(found, UpdateEvent)
    return found


class SlowList:
    """The answer is of version 7, and comes when the watch is further."""

    working_set: WorkingSet

    async def list(self, *_: Any, **__: Any) -> Listing:
        user = event(1).user
        self.working_set.want(user)
        assert self.working_set.grant() == user
        self.working_set.created(user, event(1), "one", 9)
        self.working_set.shown(user, "one", 9)
        return Listing([], 7)


async def test_an_update_that_is_created_while_others_are_listed_stays_with_its_offset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nothing(*_: Any, **__: Any) -> AsyncIterator[Listing]:
        await asyncio.Event().wait()
        yield Listing([], 0)

    monkeypatch.setattr(working_set_reflector, "reflect", nothing)
    cluster = SlowList()
    context = make_consumer_context(cast(Any, cluster))
    dispatcher = Dispatcher(context, RejectedEvents(context))
    cluster.working_set = working_set = dispatcher.working_set
    working_set.reached(5)
    reflector = WorkingSetReflector(context, dispatcher, cast(Any, SimpleNamespace(slot_freed=lambda: None)))
    await reflector.refresh()
    reflector.stop()
    assert (working_set.after(event(2)), working_set.taken) == ("one", 1)
