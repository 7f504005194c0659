"""How many Events a process writes: each stream has a token bucket, and the process has one for all."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any, cast

import pytest

from controller.api.requests import RefusedRequest
from controller.api.update_stream import Suspend
from controller.api.user_update_status import Phase, Reason, Status
from controller.clients.event_recorder import EventRecorder
from controller.reconciler.update_events import BURST, UpdateEvents, transition
from tests.support.builders import NOW, held_status, make_stream, make_update


class Written:
    """Takes creates, and keeps the objects that they regard."""

    def __init__(self) -> None:
        self.regarding: list[str] = []

    async def create(self, _: Any, __: str, manifest: dict[str, Any], *, timeout: float) -> None:
        self.regarding.append(manifest["regarding"]["name"])


async def announced(whole: int, *times: int) -> list[int]:
    """How many Events of each stream are written, where each has so many to write."""
    written = Written()
    recorder = EventRecorder(cast(Any, written), "controller", "controller", burst=whole)
    running = make_stream()
    stopped = replace(running, suspend=Suspend(users=frozenset({"ana"})))
    for number, count in enumerate(times):
        events = UpdateEvents(recorder)
        for _ in range(count):
            events.stream_changed(replace(stopped, name=str(number)), running)
        await asyncio.gather(*recorder._writes)
    return [written.regarding.count(str(number)) for number in range(len(times))]


def test_a_noisy_stream_has_its_own_bucket() -> None:
    assert asyncio.run(announced(1000, 100, 3)) == [BURST, 3]


def test_many_streams_have_one_together() -> None:
    assert asyncio.run(announced(40, *[10] * 8)) == [10, 10, 10, 10, 0, 0, 0, 0]


async def test_of_an_update_a_line_and_an_event_without_what_the_downstream_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    written = Written()
    recorder = EventRecorder(cast(Any, written), "controller", "controller")
    events, held = UpdateEvents(recorder), held_status(Reason.REJECTED, message="422 from profile: dev is no profile")
    update = make_update()
    events.update_changed(replace(update, status=held), update.status)
    events.update_changed(replace(update, status=replace(held, message="in other words")), held)
    skipped = replace(held, phase=Phase.SKIPPED, reason=Reason.SKIPPED_BY_REQUEST, held=None)
    events.update_changed(replace(update, status=skipped), held)
    await asyncio.gather(*recorder._writes)
    assert written.regarding == [update.name] * 2
    assert [record.getMessage() for record in caplog.records] == ["Update held", "Update skipped"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    shared = {"stream": "default/user-updates", "update": update.name, "step": "profile"}
    assert [vars(record)["fields"] for record in caplog.records] == [
        {**shared, "reason": "Rejected"},
        {**shared, "reason": "SkippedByRequest"},
    ]


async def test_of_a_refused_request_the_line_says_what_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    recorder = EventRecorder(cast(Any, Written()), "controller", "controller")
    update = make_update()
    refused = replace(update.status, refused_request=RefusedRequest("retry", "the update is finished", NOW))
    UpdateEvents(recorder).update_changed(replace(update, status=refused), update.status)
    await asyncio.gather(*recorder._writes)
    assert [vars(record)["fields"]["request"] for record in caplog.records] == ["retry"]


def test_what_is_suspended_otherwise_or_has_no_stream_is_not_resumed() -> None:
    suspended = Status(phase=Phase.WAITING, reason=Reason.SUSPENDED)
    for reason in (Reason.STREAM_SUSPENDED, Reason.STREAM_MISSING):
        assert transition(suspended, replace(suspended, reason=reason)) is None
    assert transition(suspended, replace(suspended, reason=Reason.DOWNSTREAM_BUSY)) == ("Normal", "Resumed")
    assert transition(suspended, replace(suspended, phase=Phase.RUNNING, reason=Reason.RUNNING)) == (
        "Normal",
        "Resumed",
    )
