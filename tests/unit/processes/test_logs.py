"""What the log says of an outage: a line at its start, one each minute, one at its end; nothing of each attempt."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from controller import logs
from controller.clients import outages
from controller.clients.outages import Outage
from controller.errors import Forbidden, Unavailable

LOGGER = logging.getLogger("controller.test")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one entry is the time; nothing was written before it."""
    now = [1000.0]
    for module in (logs, outages):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(logs, "_written", {})
    return now


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(record.getMessage(), vars(record)["fields"]) for record in caplog.records]


def test_an_outage_has_a_line_at_its_start_one_a_minute_and_one_at_its_end(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    outage = Outage()
    for _ in range(1300):  # 130 s, ten requests a second
        outage.unanswered("connection refused")
        clock[0] += 0.1
    outage.answered()
    outage.answered()
    assert [(message, round(said["seconds"], -1)) for message, said in lines(caplog)] == [
        ("The API server does not answer", 0),
        ("The API server does not answer", 60),
        ("The API server does not answer", 120),
        ("The API server answers again", 130),
    ]


def test_a_connection_that_breaks_is_no_outage(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outage = Outage()
    for _ in range(100):
        outage.unanswered("reset")
        clock[0] += 1
        outage.answered()
    assert caplog.records == []


def test_what_is_refused_again_and_again_is_told_once_a_minute_and_what_is_not_answered_by_none(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    refused, troubled = Forbidden("no right", status=403), Unavailable("etcd is away", status=500)
    for _ in range(61):
        for error in (refused, troubled, Unavailable("refused", status=0), TimeoutError()):
            logs.retrying(LOGGER, "Status not written", error, stream="a/b", update="one")
        clock[0] += 1
    shared = {"stream": "a/b", "update": "one"}
    assert lines(caplog) == [
        ("Status not written", {**shared, "cause": "no right"}),
        ("Status not written", {**shared, "cause": "etcd is away"}),
        ("Status not written", {**shared, "cause": "no right", "repeated": 59}),
        ("Status not written", {**shared, "cause": "etcd is away", "repeated": 59}),
    ]


def test_attempts_of_kopf_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logs.configure("info", "text")
        logging.getLogger("kopf._cogs.clients.api").error("Request attempt #17/2 failed; will retry: GET /apis")
        logging.getLogger("kopf._cogs.aiokits").error("Something else has failed")
    finally:
        root.handlers[:], root.level = before
    assert capsys.readouterr().err.count("\n") == 1
