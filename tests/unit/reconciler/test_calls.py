"""Calls under way: some are taken back, some are cut off, some are sent; calls that last are shown, a few a second."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller import errors
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Phase, Reason, Status
from controller.core.decisions import RunStep, being_called, decide
from controller.core.outcomes import Busy, Outcome
from controller.reconciler import calls as module
from controller.reconciler.calls import Call, Calls, OnShown
from tests.support.builders import (
    BACKING_OFF_UNTIL_5,
    BUSY_UNTIL_5,
    NOW,
    RUNNING,
    at,
    make_body,
    make_queue,
    make_stream,
    make_update,
)
from tests.support.eventually import eventually_async

BUSY = Busy("503 from profile")


class Events:
    """Takes what people are told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def postponed(self, update: UserUpdate, step: str, what: str, until: datetime) -> None:
        self.told.append(what)


class Calling:
    """A call of an update, as its worker makes it, that is answered when the test says so."""

    def __init__(self) -> None:
        self.update = make_update()
        self.queue = make_queue(self.update)
        self.stream = make_stream()
        self.events = Events()
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.call: Call
        self.begun = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> Any:
        calls = Calls(cast(Any, None), cast(Any, None), cast(Any, self.events))  # none of them lasts for a second
        self.call = Call(calls, self.update, "profile", self.stream.steps["profile"], NOW)
        self.begun.set()
        return await self.call.run(self.answer, lambda update, before: None)

    def look(self) -> None:
        """As the user's worker does when something has changed."""
        known = self.queue.get(self.update.name)
        decision = decide(known, self.queue, self.stream, NOW) if known else None
        self.call.decided(known, decision, self.stream.steps["profile"])

    def ask(self, request: str) -> None:
        self.call.update_changed(replace(self.update, request=request))


@pytest.fixture
async def calling() -> Calling:
    made = Calling()
    await made.begun.wait()
    return made


async def test_nothing_comes_of_one_that_is_taken_back_before_it_is_sent(calling: Calling) -> None:
    calling.ask("skip")
    assert await calling.task is None
    assert calling.task.cancelling() == 0, "the worker goes on"
    assert calling.events.told == []


async def test_one_of_an_update_that_is_deleted_is_taken_back_before_it_is_sent(calling: Calling) -> None:
    """Such a call was made all the same once there was a connection, up to an hour later."""
    calling.call.update_changed(replace(calling.update, deleted=True))
    assert await calling.task is None
    assert calling.events.told == []


async def test_one_that_was_sent_is_waited_for_and_told_of_once(calling: Calling) -> None:
    calling.call.sending()
    for _ in range(3):
        calling.ask("skip")
    calling.answer.set_result(BUSY)
    assert await calling.task == BUSY
    assert calling.events.told == ["request 'skip' is looked at"]


async def test_a_retry_takes_nothing_back(calling: Calling) -> None:
    calling.ask("retry")
    calling.answer.set_result(BUSY)
    assert await calling.task == BUSY


@pytest.mark.parametrize("first", ["cut", "taken back"])
async def test_who_cuts_it_ends_the_task_whoever_takes_it_back(calling: Calling, first: str) -> None:
    for act in (calling.task.cancel, lambda: calling.ask("skip"))[:: 1 if first == "cut" else -1]:
        act()
    with pytest.raises(asyncio.CancelledError):
        await calling.task


async def test_what_the_queue_no_longer_wants_called_is_taken_back(calling: Calling) -> None:
    calling.look()
    assert calling.task.cancelling() == 0
    spec = replace(calling.update.spec, suspend=True)
    calling.queue.push(replace(calling.update, spec=spec))
    calling.look()
    assert await calling.task is None


async def test_one_with_a_url_that_was_corrected_is_taken_back(calling: Calling) -> None:
    steps = calling.stream.steps
    corrected = {**steps, "profile": replace(steps["profile"], url="http://127.0.0.1:8081/profile")}
    calling.stream = replace(calling.stream, steps=corrected)
    calling.look()
    assert await calling.task is None


async def test_of_a_user_who_is_suspended_during_a_call_it_is_told_once(calling: Calling) -> None:
    calling.call.sending()
    calling.stream = make_stream(suspend_users=["ana"])
    for _ in range(3):
        calling.look()
    assert calling.events.told == ["the suspension takes effect"]
    calling.stream = make_stream(suspend_processing=True)
    calling.look()
    calling.answer.set_result(BUSY)
    assert await calling.task == BUSY
    assert len(calling.events.told) == 1, "of the whole stream its condition tells"


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
    monkeypatch.setattr(module, "LONG_SECONDS", 0.01)
    return Server()


def calls_of(server: Server, held: bool = True) -> Calls:
    return Calls(cast(Any, server), cast(Any, SimpleNamespace(held=held)), cast(Any, None))


@contextmanager
def long_call(calls: Calls, update: UserUpdate, on_shown: OnShown = lambda *_: None) -> Iterator[Call]:
    """Under way for as long as it is entered."""
    call = Call(calls, update, "profile", make_stream().steps["profile"], at(7))
    with calls.during(call, on_shown):
        yield call


async def until_written(server: Server, count: int) -> None:
    async def written() -> bool:
        return len(server.written) >= count

    await eventually_async(written, within=5)


async def test_an_update_says_that_it_is_being_called_and_the_outcome_goes_on_from_there(server: Server) -> None:
    shown: list[tuple[UserUpdate, Status]] = []
    update = make_update(status=BUSY_UNTIL_5)
    with long_call(calls_of(server), update, lambda *found: shown.append(found)) as call:
        await until_written(server, 1)
    after = await call.shown()
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
    calls = calls_of(server)
    with ExitStack() as hanging:
        for number in range(1000):
            update = make_update(user=f"user{number}", sequence=number, status=BUSY_UNTIL_5)
            hanging.enter_context(long_call(calls, update))
        started = asyncio.get_running_loop().time()
        await until_written(server, 8)
        seconds = asyncio.get_running_loop().time() - started
        assert len(server.written) <= 1 + module.PER_SECOND * seconds
        assert server.most_at_once == 1
        count = len(server.written)
    assert calls._shower
    await calls._shower
    assert len(server.written) <= count + 1, "what is over is not written"


@pytest.mark.parametrize(("held", "status"), [(False, BUSY_UNTIL_5), (True, RUNNING)], ids=["no Lease", "says so"])
async def test_what_is_not_written(server: Server, held: bool, status: Status) -> None:
    calls = calls_of(server, held)
    with long_call(calls, make_update(status=status)) as call:

        async def lasts() -> bool:
            return bool(calls._long)

        await eventually_async(lasts, within=5)
        if calls._shower:
            await calls._shower
    assert await call.shown() == make_update(status=status)
    assert not server.written and not calls._long


async def test_an_outcome_does_not_wait_for_long_for_a_write_that_hangs(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)
    server.answering.clear()
    update = make_update(status=BUSY_UNTIL_5)
    with long_call(calls_of(server), update) as call:

        async def under_way() -> bool:
            return server.at_once == 1

        await eventually_async(under_way, within=5)
    assert await asyncio.wait_for(call.shown(), 60) == update


async def test_a_label_that_was_set_meanwhile_is_no_obstacle(server: Server) -> None:
    update = make_update(status=BUSY_UNTIL_5)
    server.error, server.found = errors.Conflict("changed"), replace(update, resource_version=200, request="skip")
    with long_call(calls_of(server), update) as call:
        await until_written(server, 2)
    after = await call.shown()
    assert (after.resource_version, after.status.phase, after.request) == (201, Phase.RUNNING, "skip")


async def test_another_status_is_not_written_over(server: Server) -> None:
    update = make_update(status=BUSY_UNTIL_5)
    other = replace(BUSY_UNTIL_5, phase=Phase.SKIPPED, reason=Reason.SKIPPED_BY_REQUEST)
    server.error, server.found = errors.Conflict("changed"), replace(update, resource_version=200, status=other)
    calls = calls_of(server)
    with long_call(calls, update) as call:
        await until_written(server, 1)
        assert calls._shower
        await calls._shower
    assert await call.shown() == update
    assert len(server.written) == 1


@pytest.mark.parametrize("error", [errors.Forbidden("policy"), errors.Unavailable("away")])
async def test_what_is_refused_is_left(server: Server, error: Exception) -> None:
    server.error = error
    update = make_update(status=BUSY_UNTIL_5)
    with long_call(calls_of(server), update) as call:
        await until_written(server, 1)
    assert await call.shown() == update
