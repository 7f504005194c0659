"""Updates whose calls last say so: soon, a few a second, and not at all where the call is over or the Lease lost."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller import errors
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Phase, Reason, Status
from controller.core.decisions import RunStep, being_called, decide
from controller.reconciler import longcalls
from controller.reconciler.longcalls import LongCalls
from tests.support.builders import (
    BACKING_OFF_UNTIL_5,
    BUSY_UNTIL_5,
    RUNNING,
    at,
    make_body,
    make_queue,
    make_stream,
    make_update,
)
from tests.support.eventually import eventually_async


class Server:
    """Takes status writes when it is told to."""

    def __init__(self) -> None:
        self.written: list[tuple[str, Any, int]] = []
        self.answering = asyncio.Event()
        self.answering.set()
        #: Of the next write; and what is there then.
        self.error: Exception | None = None
        self.found: UserUpdate | None = None
        self.at_once = self.most_at_once = 0

    async def get(self, *_: Any) -> Any:
        assert self.found
        return make_body(self.found)

    async def patch_status(self, _resource: Any, _namespace: str, name: str, status: Any, version: int) -> Any:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.answering.wait()
        finally:
            self.at_once -= 1
        self.written.append((name, status, version))
        if self.error:
            error, self.error = self.error, None
            raise error
        return {"metadata": {"resourceVersion": str(version + 1)}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(longcalls, "LONG_SECONDS", 0.01)
    return Server()


def long_calls(server: Server, held: bool = True) -> LongCalls:
    return LongCalls(cast(Any, server), cast(Any, SimpleNamespace(held=held)))


async def until_written(server: Server, count: int) -> None:
    async def written() -> bool:
        return len(server.written) >= count

    await eventually_async(written, within=5)


async def test_an_update_says_that_it_is_being_called_and_the_outcome_goes_on_from_there(server: Server) -> None:
    shown: list[tuple[UserUpdate, Status]] = []
    update = make_update(status=BUSY_UNTIL_5)
    with long_calls(server).call(update, "profile", at(7), lambda *found: shown.append(found)) as call:
        await until_written(server, 1)
    after = await call.settled()
    (_, status, version) = server.written[0]
    assert (status["phase"], status["nextAttemptTime"], status["busyCount"]) == ("Running", None, 1)
    assert status["conditions"][0]["message"] == "profile is being called since 12:00:07"
    assert version == update.resource_version
    assert shown == [(after, BUSY_UNTIL_5)] and after.resource_version == version + 1


@pytest.mark.parametrize("status", [BUSY_UNTIL_5, BACKING_OFF_UNTIL_5, Status(), RUNNING])
def test_after_a_crash_the_call_is_repeated_at_once_and_nothing_that_counts_is_lost(status: Status) -> None:
    after = being_called(status, "profile", at(7))
    assert (after.phase, after.reason, after.called) == (Phase.RUNNING, Reason.RUNNING, True)
    kept = ("attempts", "busy_count", "misconfigured_count", "steps", "run", "start_time", "handled_request", "held")
    assert [getattr(after, name) for name in kept] == [getattr(status, name) for name in kept]
    update = make_update(status=after)
    step = "permissions" if status is RUNNING else "profile"
    assert decide(update, make_queue(update), make_stream(), at(8)) == RunStep(step)
    body = {key: value for key, value in after.for_status().items() if value is not None}
    assert Status.from_body(body) == after


async def test_a_thousand_calls_that_hang_are_shown_a_few_a_second(server: Server) -> None:
    calls = long_calls(server)
    with ExitStack() as hanging:
        for number in range(1000):
            update = make_update(user=f"user{number}", sequence=number, status=BUSY_UNTIL_5)
            hanging.enter_context(calls.call(update, "profile", at(7), lambda *_: None))
        started = asyncio.get_running_loop().time()
        await until_written(server, 8)
        seconds = asyncio.get_running_loop().time() - started
        assert len(server.written) <= 1 + longcalls.PER_SECOND * seconds
        assert server.most_at_once == 1
        count = len(server.written)
    assert calls._shower
    await calls._shower
    assert len(server.written) <= count + 1, "what is over is not written"


@pytest.mark.parametrize(("held", "status"), [(False, BUSY_UNTIL_5), (True, RUNNING)], ids=["no Lease", "says so"])
async def test_what_is_not_written(server: Server, held: bool, status: Status) -> None:
    calls = long_calls(server, held)
    with calls.call(make_update(status=status), "profile", at(7), lambda *_: None) as call:

        async def lasts() -> bool:
            return bool(calls._under_way)

        await eventually_async(lasts, within=5)
        if calls._shower:
            await calls._shower
    assert await call.settled() == make_update(status=status)
    assert not server.written and not calls._under_way


async def test_an_outcome_does_not_wait_for_long_for_a_write_that_hangs(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longcalls, "PATIENCE_SECONDS", 0.01)
    server.answering.clear()
    update = make_update(status=BUSY_UNTIL_5)
    with long_calls(server).call(update, "profile", at(7), lambda *_: None) as call:

        async def under_way() -> bool:
            return server.at_once == 1

        await eventually_async(under_way, within=5)
    assert await asyncio.wait_for(call.settled(), 5) == update


async def test_a_label_that_was_set_meanwhile_is_no_obstacle(server: Server) -> None:
    update = make_update(status=BUSY_UNTIL_5)
    server.error, server.found = errors.Conflict("changed"), replace(update, resource_version=200, request="skip")
    with long_calls(server).call(update, "profile", at(7), lambda *_: None) as call:
        await until_written(server, 2)
    after = await call.settled()
    assert (after.resource_version, after.status.phase, after.request) == (201, Phase.RUNNING, "skip")


async def test_another_status_is_not_written_over(server: Server) -> None:
    update = make_update(status=BUSY_UNTIL_5)
    other = replace(BUSY_UNTIL_5, phase=Phase.SKIPPED, reason=Reason.SKIPPED_BY_REQUEST)
    server.error, server.found = errors.Conflict("changed"), replace(update, resource_version=200, status=other)
    calls = long_calls(server)
    with calls.call(update, "profile", at(7), lambda *_: None) as call:
        await until_written(server, 1)
        assert calls._shower
        await calls._shower
    assert await call.settled() == update
    assert len(server.written) == 1


@pytest.mark.parametrize("error", [errors.Forbidden("policy"), errors.Unavailable("away")])
async def test_what_is_refused_is_left(server: Server, error: Exception) -> None:
    server.error = error
    update = make_update(status=BUSY_UNTIL_5)
    with long_calls(server).call(update, "profile", at(7), lambda *_: None) as call:
        await until_written(server, 1)
    assert await call.settled() == update
