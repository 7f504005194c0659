"""While a call lasts its update says so; the write for that disturbs neither the outcome's nor a successor."""

from __future__ import annotations

import re
from typing import Any

from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream, all_steps, steps
from tests.support.eventually import eventually
from tests.support.replicas import Replica

BUSY = {"step": "profile", "action": "busy", "retryAfter": 1, "count": 1}
FAILING = {"step": "profile", "action": "fail", "count": 1}


def slow(seconds: float) -> dict[str, object]:
    return {"step": "profile", "action": "slow", "seconds": seconds, "count": 1}


def conflicts(replica: Replica, stream: ControllerStream) -> float:
    found = re.findall(r"enrichment_controller_checkpoint_conflicts_total\{([^}]*)\} (\S+)", replica.metrics())
    return sum(float(count) for labels, count in found if stream.stream in labels)


def test_an_update_that_is_being_called_says_so(stream: ControllerStream, start_controller: StartReplica) -> None:
    """It showed what it had waited for, with a NEXT that had passed."""
    controller = start_controller()
    stream.rules({**BUSY, "user": "ana"}, {**FAILING, "user": "bo"}, slow(3))
    missing = stream.add("cy", 1)
    stream.until(missing, "Waiting", "StreamMissing")
    busy, failing = stream.add("ana", 1), stream.add("bo", 1)
    stream.apply(profile={"retry": {"initialSeconds": 1}})
    shown: dict[str, dict[str, Any]] = {}

    def all_shown() -> bool:
        for name in (busy, failing, missing):
            status = stream.status(name)
            if status.get("phase") == "Running" and not status["steps"]:
                shown[name] = status
        return len(shown) == 3

    eventually(all_shown)
    for name, attempts, busy_count in ((busy, 0, 1), (failing, 1, 0), (missing, 0, 0)):
        status = shown[name]
        assert "nextAttemptTime" not in status and status["step"] == "profile"
        assert (status["attempts"], status["busyCount"]) == (attempts, busy_count)
        (condition,) = status["conditions"]
        assert condition["reason"] == "Running"
        assert re.fullmatch(r"profile is being called since \d\d:\d\d:\d\d", condition["message"])
    for name in (busy, failing, missing):
        stream.until(name, "Succeeded")
    # Each was given its label by the controller, which is a conflict of the first write at most.
    assert conflicts(controller, stream) <= 3
    assert stream.status(failing)["steps"][0]["attempts"] == 2
    assert stream.violations(finished=[("ana", 1), ("bo", 1), ("cy", 1)]) == []


def test_a_successor_repeats_the_call_that_an_update_told_of(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    stream.rules(FAILING, slow(30))
    controller = start_controller("controller-killed")
    stream.apply(profile={"retry": {"initialSeconds": 0.1}})
    name = stream.add("ana", 1)
    assert stream.until(name, "Running", "Running")["attempts"] == 1
    controller.kill()
    stream.rules()
    controller.start()
    stream.until(name, "Succeeded", within=20)
    assert stream.status(name)["steps"][0]["attempts"] == 2
    assert steps(stream.calls()) == [*all_steps("ana", 1)[:1] * 2, *all_steps("ana", 1)]
    first, *repeated = [call.key for call in stream.calls() if call.step == "profile"]
    assert repeated == [first, first]


def test_what_is_asked_of_an_update_that_tells_of_its_call_is_done_after_it(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    start_controller()
    stream.rules({**BUSY, "user": "ana"}, slow(4))
    stream.apply()
    asked, suspended = stream.add("ana", 1), stream.add("bo", 1)
    stream.until(suspended, "Running", "Running")
    stream.suspend(suspended)
    stream.until(asked, "Running", "Running")  # it was told busy before
    stream.ask(asked, "skip")
    stream.until(asked, "Skipped")
    assert len(stream.until(suspended, "Waiting", "Suspended")["steps"]) == 1
    assert steps(stream.calls("ana")) == [("ana", 1, "profile")] * 2
