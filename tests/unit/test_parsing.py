"""Objects that somebody else has written: understood, or left alone; never an error that would stop the others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.engine.parsing import parse
from controller.updates import UserUpdate

BODY: dict[str, Any] = {
    "metadata": {
        "namespace": "default",
        "name": "by-hand",
        "uid": "u-1",
        "resourceVersion": "7",
        "creationTimestamp": "2026-11-23T12:00:00Z",
        "annotations": {"enrichment.dev/request": "retry"},
    },
    "spec": {
        "stream": "s",
        "user": "ana",
        "sequence": 1,
        "profile": "p",
        "permissions": "p",
        "resources": "r",
        "source": {"topic": "t", "topicId": "A" * 22, "partition": 0, "offset": 1, "timestamp": "2026-11-23T12:00:00Z"},
    },
    "status": {
        "phase": "Waiting",
        "step": "permissions",
        "attempts": 1,
        "busyCount": 0,
        "run": 0,
        "nextAttemptTime": "2026-11-23T12:00:09Z",
        "steps": [
            {
                "name": "profile",
                "result": {"userId": "u"},
                "attempts": 1,
                "startTime": "2026-11-23T12:00:00Z",
                "completionTime": "2026-11-23T12:00:01Z",
            }
        ],
        "conditions": [{"type": "Succeeded", "status": "Unknown", "reason": "BackingOff", "message": "m"}],
    },
}
PATHS = [
    ("status", "nextAttemptTime"),
    ("status", "phase"),
    ("status", "step"),
    ("status", "attempts"),
    ("status", "run"),
    ("status", "steps"),
    ("status", "conditions"),
    ("status", "steps", 0, "result"),
    ("status", "steps", 0, "startTime"),
    ("status", "conditions", 0, "reason"),
    ("status",),
    ("spec", "source"),
    ("spec", "source", "timestamp"),
    ("spec", "sequence"),
    ("metadata", "annotations"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
)


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    body = copy.deepcopy(BODY)
    at: Any = body
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return body


def test_the_whole_object_is_understood() -> None:
    update = parse(BODY)
    assert update is not None
    assert (update.status.step, update.request) == ("permissions", "retry")


@pytest.mark.parametrize("text", ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_the_api_server_takes_and_nobody_can_wait_for(text: str) -> None:
    assert parse(changed(("status", "nextAttemptTime"), text)) is None


@given(st.sampled_from(PATHS), JSON)
def test_any_value_anywhere_is_an_update_or_none(path: tuple[str | int, ...], value: Any) -> None:
    assert isinstance(parse(changed(path, value)), UserUpdate | None)
