"""Updates without a stream: what is refused for one of them keeps no other from being marked, and is tried again."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from controller import errors
from controller.cluster import Body, Listing
from controller.engine import orphans
from controller.engine.orphans import Orphans
from controller.recorder import EventRecorder
from tests.builders import make_body, make_update


class Server:
    """Has three users' updates; refuses the first one's status for a while, as a policy would."""

    def __init__(self, refusals: int) -> None:
        self.updates = [make_update(user=user, sequence=number) for number, user in enumerate(("ana", "bo", "cy"))]
        self.refusals = refusals
        self.marked: list[str] = []
        self.all_marked = asyncio.Event()

    async def list(self, *_: Any, **__: Any) -> Listing:
        return Listing([make_body(update) for update in self.updates if update.name not in self.marked], 100)

    async def patch_status(self, _resource: Any, _namespace: str, name: str, *_: Any) -> Body:
        if name == self.updates[0].name and self.refusals:
            self.refusals -= 1
            raise errors.Forbidden("a policy says no")
        self.marked.append(name)
        if len(self.marked) == len(self.updates):
            self.all_marked.set()
        return {"metadata": {"resourceVersion": "101"}}


async def test_a_refused_one_keeps_no_other_waiting_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "GRACE_SECONDS", 0.0)
    server = Server(refusals=2)
    found = Orphans(cast(Any, server), EventRecorder(cast(Any, server), "controller", "me"), lambda key: False)
    found.notice(("default", "user-updates"))
    async with asyncio.timeout(10):
        await server.all_marked.wait()
    assert server.marked[-1] == server.updates[0].name, "the others did not wait for it"
    found.stop()
