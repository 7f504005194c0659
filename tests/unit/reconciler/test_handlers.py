"""Events are handed over from kopf's thread to ours; its context must stay behind."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import kopf
import pytest

from controller.clients.cluster import Body
from controller.clients.namespaces import Namespaces
from controller.config import Scope
from controller.errors import Forbidden
from controller.reconciler import handlers
from controller.reconciler.handlers import Handover

#: As kopf keeps the object, its causes and loggers while a handler runs.
of_kopf: contextvars.ContextVar[object] = contextvars.ContextVar("of_kopf", default=None)


class Recorder:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None, str]] = []
        self.contexts: list[object] = []
        self.done = asyncio.Event()

    def observe_stream(self, kind: str | None, body: Body) -> None:
        self._observe("stream", kind, body)

    def observe_update(self, kind: str | None, body: Body) -> None:
        self._observe("update", kind, body)

    def _observe(self, of: str, kind: str | None, body: Body) -> None:
        self.seen.append((of, kind, body["metadata"]["name"]))
        # A waiting user's timer keeps the context in which it was set, for hours maybe.
        asyncio.get_running_loop().call_later(0, lambda: self.contexts.append(of_kopf.get()))
        if body["metadata"]["name"] == "last":
            asyncio.get_running_loop().call_later(0.01, self.done.set)


def event(kind: str | None, name: str) -> dict[str, Any]:
    return {"type": kind, "object": {"metadata": {"name": name}}}


async def handed_over(put: Callable[[Handover], None]) -> Recorder:
    """What arrives of the events that `put` hands over on another thread, in which the context of a handler is set."""
    recorder = Recorder()
    handover = Handover(asyncio.get_running_loop(), recorder)

    def run() -> None:
        of_kopf.set(object())
        put(handover)
        handover.put(event("ADDED", "last"), of_stream=False)

    thread = threading.Thread(target=run)
    thread.start()
    async with asyncio.timeout(60):
        await recorder.done.wait()
    thread.join()
    return recorder


def test_events_arrive_once_and_in_order() -> None:
    def put(handover: Handover) -> None:
        handover.put(event(None, "a"), of_stream=True)
        for number in range(1000):
            handover.put(event("MODIFIED", f"u{number}"), of_stream=False)

    recorder = asyncio.run(handed_over(put))
    updates = [("update", "MODIFIED", f"u{number}") for number in range(1000)]
    assert recorder.seen == [("stream", None, "a"), *updates, ("update", "ADDED", "last")]


def test_an_event_that_is_not_understood_stops_no_other() -> None:
    def put(handover: Handover) -> None:
        handover.put({"type": "ADDED", "object": {"spec": {}}}, of_stream=False)

    assert asyncio.run(handed_over(put)).seen == [("update", "ADDED", "last")]


def test_what_begins_with_an_event_does_not_keep_what_kopf_holds_of_it() -> None:
    def put(handover: Handover) -> None:
        for number in range(10):
            handover.put(event("ADDED", f"u{number}"), of_stream=False)

    assert asyncio.run(handed_over(put)).contexts == [None] * 11


@pytest.mark.parametrize(
    ("named", "lost", "watched"),
    [
        pytest.param((), None, [(True, [])], id="all of the cluster"),
        pytest.param(("a", "b"), None, [(False, ["a", "b"])], id="those that are named"),
        pytest.param(("a",), "a", [], id="none, not all, where the last one is refused meanwhile"),
    ],
)
def test_kopf_watches_what_can_be_read_and_nothing_else(
    named: tuple[str, ...], lost: str | None, watched: list[tuple[bool, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    readable, seen = Namespaces(Scope(named)), list[tuple[bool, list[str]]]()

    async def watch() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        async def operator(*, clusterwide: bool, namespaces: list[str], **_: Any) -> None:
            seen.append((clusterwide, namespaces))
            loop.call_soon_threadsafe(stop.set)

        async def served(*_: str) -> frozenset[str]:
            return handlers.PLURALS

        async def begin() -> None:
            for namespace in readable.scope.each:
                readable.listed(namespace)
            if lost:
                readable.failed(lost, Forbidden("cannot list", status=403))
                loop.call_later(0.1, stop.set)

        monkeypatch.setattr(kopf, "operator", operator)
        cluster = SimpleNamespace(served=served, trust=SimpleNamespace(regained=asyncio.Event()))
        async with asyncio.timeout(60):
            await handlers.watch(cast(Any, cluster), Recorder(), stop, begin, readable)

    asyncio.run(watch())
    assert seen == watched
