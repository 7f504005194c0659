"""A call that is taken back, one that others cut, and one that was sent: whose end it is, and what comes of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

import pytest

from controller.api.user_update import UserUpdate
from controller.core.decisions import decide
from controller.core.outcomes import Busy, Outcome
from controller.reconciler.calling import Call
from controller.reconciler.longcalls import LongCalls
from tests.support.builders import NOW, make_queue, make_stream, make_update

BUSY = Busy("503 from profile")


class Context:
    """Takes what is announced."""

    def __init__(self) -> None:
        self.announcer, self.stream = self, make_stream()
        self.long_calls = LongCalls(cast(Any, None), cast(Any, None))  # none of these calls lasts that long
        self.told: list[str] = []

    def postponed(self, update: UserUpdate, step: str, what: str, until: datetime) -> None:
        self.told.append(what)


class Calling:
    """A call of an update, as its lane makes it, that is answered when the test says so."""

    def __init__(self) -> None:
        self.update = make_update()
        self.queue = make_queue(self.update)
        self.context: Any = Context()
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.call: Call
        self.begun = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> Any:
        self.call = Call(
            self.context,
            self.queue,
            lambda update: decide(update, self.queue, self.context.stream, NOW),
            lambda update, before: None,
            lambda update: None,
            self.update,
            "profile",
            NOW,
        )
        self.begun.set()
        return await self.call.made(self.answer)

    def ask(self, request: str) -> None:
        self.call.changed(replace(self.update, request=request))


@pytest.fixture
async def calling() -> Calling:
    made = Calling()
    await made.begun.wait()
    return made


async def test_nothing_comes_of_one_that_is_taken_back_before_it_is_sent(calling: Calling) -> None:
    calling.ask("skip")
    assert await calling.task is None
    assert calling.task.cancelling() == 0, "the lane goes on"
    assert calling.context.told == []


async def test_one_of_an_update_that_is_deleted_is_taken_back_before_it_is_sent(calling: Calling) -> None:
    """Else it was made all the same once there was a connection, up to an hour later."""
    calling.call.changed(replace(calling.update, deleted=True))
    assert await calling.task is None
    assert calling.context.told == []


async def test_one_that_was_sent_is_waited_for_and_told_of_once(calling: Calling) -> None:
    calling.call.sending()
    for _ in range(3):
        calling.ask("skip")
    calling.answer.set_result(BUSY)
    assert await calling.task == BUSY
    assert calling.context.told == ["request 'skip' is looked at"]


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
    calling.call.look()
    assert calling.task.cancelling() == 0
    spec = replace(calling.update.spec, suspend=True)
    calling.queue.push(replace(calling.update, spec=spec))
    calling.call.look()
    assert await calling.task is None


async def test_one_with_a_url_that_was_corrected_is_taken_back(calling: Calling) -> None:
    steps = calling.context.stream.steps
    corrected = {**steps, "profile": replace(steps["profile"], url="http://127.0.0.1:8081/profile")}
    calling.context.stream = replace(calling.context.stream, steps=corrected)
    calling.call.look()
    assert await calling.task is None


async def test_of_a_user_who_is_suspended_during_a_call_it_is_told_once(calling: Calling) -> None:
    calling.call.sending()
    calling.context.stream = make_stream(suspend_users=["ana"])
    for _ in range(3):
        calling.call.look()
    assert calling.context.told == ["the suspension takes effect"]
    calling.context.stream = make_stream(suspend_processing=True)
    calling.call.look()
    calling.answer.set_result(BUSY)
    assert await calling.task == BUSY
    assert len(calling.context.told) == 1, "of the whole stream its condition tells"
