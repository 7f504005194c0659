"""Objects that somebody else has written are understood, or get a placeholder; none raises an error."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.names import STEPS
from controller.api.user_update import Unreadable
from controller.api.user_update_status import FINISHED, Phase
from controller.core.decisions import WaitTurn, decide
from controller.reconciler.retention import Collector
from controller.reconciler.update_reader import parse
from tests.support.builders import BUSY_UNTIL_5, NOW, at, make_queue, make_stream, make_update

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
    assert not update.unreadable
    assert (update.status.step, update.request) == ("permissions", "retry")


@pytest.mark.parametrize("text", ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_the_api_server_takes_and_nobody_can_wait_for(text: str) -> None:
    assert parse(changed(("status", "nextAttemptTime"), text)).unreadable
    assert parse(changed(("spec", "source", "timestamp"), text)).unreadable


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("status", "phase"), "Paused"),
        (("status", "conditions", 0, "reason"), "StepSuspended"),
        (("status", "steps", 0, "name"), "address"),
        (("status", "steps"), [{**BODY["status"]["steps"][0], "name": step} for step in STEPS]),
        (("status", "held"), "TooDear"),
    ],
    ids=["another phase", "another reason", "another step", "all steps, and still waiting", "held for something else"],
)
def test_a_status_of_a_newer_version_keeps_its_place_counts_as_called_and_never_runs(path: Any, value: Any) -> None:
    update = parse(changed(path, value))
    assert update.unreadable and update.unreadable.placed
    assert (update.spec.sequence, update.source_name) == (1, f"{'A' * 22}/0")
    earlier, later = make_update(sequence=0, manual=True), make_update(sequence=2)
    queue = make_queue(earlier, later, update)
    assert queue.head is update
    assert {decide(each, queue, make_stream(), NOW) for each in (earlier, later, update)} == {WaitTurn()}


@pytest.mark.parametrize("path", [("spec", "source"), ("spec", "sequence"), ("spec", "profile")])
def test_where_its_place_cannot_be_told_the_whole_queue_waits(path: Any) -> None:
    body = changed(path, None)
    del body[path[0]][path[1]]
    update = parse(body if path[1] != "source" else changed(path, {"of": "tomorrow"}))
    assert update.unreadable and not update.unreadable.placed
    queue = make_queue(called := make_update(sequence=0, manual=True, status=BUSY_UNTIL_5))
    queue.take(called.name)
    queue.push(update)
    assert queue.head is update
    assert decide(called, queue, make_stream(), at(60)) == WaitTurn()
    queue.remove(update.name)
    assert queue.head is called


def test_one_that_was_not_called_waits_where_its_sequence_says() -> None:
    body = changed(("spec", "source"), None)
    del body["spec"]["source"], body["status"]
    body["spec"]["suspend"] = None
    update = replace(parse(body), unreadable=Unreadable("something", placed=True))
    assert make_queue(make_update(sequence=0, manual=True), update).head is not update


@pytest.mark.parametrize("phase", sorted(FINISHED))
def test_a_finished_one_keeps_nobody_waiting_and_is_not_collected(phase: Phase) -> None:
    body = changed(("status", "conditions", 0, "reason"), "DoneOtherwise")
    body["status"]["phase"] = phase.value
    update = parse(body)
    assert update.unreadable
    assert update.status.finished
    collector = Collector(cast(Any, None), cast(Any, None))
    collector._listed = True
    collector.add(update)
    assert set(collector.counts.values()) == {0}


def test_the_log_tells_once_of_each_cause(caplog: pytest.LogCaptureFixture) -> None:
    for phase, version in (("Paused", "7"), ("Paused", "7"), ("Paused", "8"), ("Stopped", "9")):
        body = changed(("status", "phase"), phase)
        parse({**body, "metadata": {**body["metadata"], "uid": "told-once", "resourceVersion": version}})
    assert len(caplog.records) == 2


@given(st.sampled_from(PATHS), JSON)
def test_any_value_anywhere_is_an_update(path: tuple[str | int, ...], value: Any) -> None:
    update = parse(changed(path, value))
    assert (update.name, update.spec.user) == ("by-hand", "ana")
