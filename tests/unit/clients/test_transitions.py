"""Changes of a stream's conditions: each is told of once, and one that flaps does not fill the log."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, cast

import pytest

from controller.api.user_update_status import Status
from controller.clients.stream_status import with_condition
from controller.clients.transitions import BURST, Transitions
from controller.core.decisions import record
from controller.core.outcomes import Misconfigured
from controller.core.step_health import StepHealth
from controller.reconciler.stream_report import Summary, processing
from tests.support.builders import NOW, at, make_stream, make_update

STREAM = make_stream()


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str, str]] = []

    def event(self, _: Any, kind: str, reason: str, action: str, note: str) -> None:
        self.events.append((kind, reason, action, note))


def consuming(ok: bool | None, reason: str, message: str = "words") -> dict[str, Any]:
    found = with_condition({}, "Processing", True, "Processing", "fine", generation=1, now=at(0))
    return with_condition(found, "Consuming", ok, reason, message, generation=1, now=at(0))


WELL, MISSING = consuming(True, "Consuming"), consuming(False, "TopicMissing")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def transitions(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> Transitions:
    caplog.set_level(logging.INFO)
    return Transitions(cast(Any, recorder), "default", "events", "uid")


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(record.levelname, vars(record)["fields"]) for record in caplog.records]


def test_a_change_is_a_line_and_an_event(
    transitions: Transitions, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    transitions.written(WELL, MISSING)
    transitions.written(MISSING, WELL)
    assert recorder.events == [
        ("Warning", "TopicMissing", "Consuming", "Consuming=False: words"),
        ("Normal", "Consuming", "Consuming", "Consuming=True: words"),
    ]
    shared = {"stream": "default/events", "condition": "Consuming", "message": "words"}
    assert lines(caplog) == [
        ("WARNING", {**shared, "status": "False", "reason": "TopicMissing", "before": "Consuming"}),
        ("INFO", {**shared, "status": "True", "reason": "Consuming", "before": "TopicMissing"}),
    ]


def test_another_message_is_no_change_nor_is_what_was_there_before(
    transitions: Transitions, recorder: Recorder
) -> None:
    transitions.written(MISSING, consuming(False, "TopicMissing", "in other words"))
    transitions.written(MISSING, {**MISSING, "partitions": []})
    assert recorder.events == []


def test_another_reason_is_a_change_and_what_a_person_wants_is_no_warning(
    transitions: Transitions, recorder: Recorder
) -> None:
    transitions.written(MISSING, consuming(False, "Suspended"))
    transitions.written(consuming(False, "Suspended"), consuming(None, "NoBridge"))
    assert [event[:2] for event in recorder.events] == [("Normal", "Suspended"), ("Warning", "NoBridge")]


def test_the_log_does_not_repeat_what_a_downstream_said(
    transitions: Transitions, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    health = StepHealth()
    waiting = [
        make_update(
            user=user, status=record(Status(), Misconfigured(f"401 from profile: no: {user}"), STREAM, NOW, NOW)
        )
        for user in ("ana", "bo", "cy")
    ]
    report = replace(health.reports(waiting, 0)[0], complete=True)
    condition = processing(STREAM, Summary({}, {}, (report,)))
    after = with_condition(WELL, "Processing", condition.ok, condition.reason, condition.message, generation=1, now=NOW)
    transitions.written(WELL, after)
    assert "401 from profile: no: ana" in recorder.events[0][3]
    assert lines(caplog)[0][1]["message"] == "profile: 3 users wait: 401 from profile"


async def test_of_one_that_flaps_the_end_is_told_of(
    transitions: Transitions, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(50):
        transitions.written(WELL, MISSING)
        transitions.written(MISSING, WELL)
    transitions.written(WELL, MISSING)
    assert len(recorder.events) == len(caplog.records) == BURST
    transitions._report_later("Consuming")  # a minute later
    assert [event[1] for event in recorder.events[BURST - 1 :]] == ["Consuming", "TopicMissing"]
    assert lines(caplog)[-1][1]["untold"] == 101 - BURST
    transitions._report_later("Consuming")
    assert len(recorder.events) == BURST + 1
