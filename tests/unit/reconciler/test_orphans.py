"""Updates without a stream: a refused write of one of them is tried again, and the others are marked all the same."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from controller import errors
from controller.clients.cluster import Body, Listing
from controller.clients.event_recorder import EventRecorder
from controller.config import Scope
from controller.reconciler import orphans
from controller.reconciler.manager import Manager
from controller.reconciler.orphans import Orphans
from tests.support.builders import make_body, make_update


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
    found.add(("default", "user-updates"))
    async with asyncio.timeout(60):
        await server.all_marked.wait()
    assert server.marked[-1] == server.updates[0].name, "the others did not wait for it"
    found.stop()


async def test_those_of_a_namespace_that_is_deleted_are_not_asked_for_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rights go with the namespace: each of its streams was looked at every two seconds, for ever."""
    monkeypatch.setattr(orphans, "GRACE_SECONDS", 0.0)
    asked: list[str] = []

    class Refusing:
        async def list(self, _: Any, namespace: str, **__: Any) -> Listing:
            asked.append(namespace)
            refused = errors.Forbidden("cannot list", status=403)
            manager.namespaces.failed(namespace, refused)
            raise refused

    manager = Manager(cast(Any, Refusing()), cast(Any, None), "me", "enrichment-system", Scope(("default", "other")))
    for namespace in ("default", "other"):
        manager.namespaces.listed(namespace)
    manager.observe_update("ADDED", make_body(make_update()))
    async with asyncio.timeout(60):
        while looking := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(looking)
    assert asked == ["default"]
