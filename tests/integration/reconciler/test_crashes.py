"""The controller killed between any two of its effects: nothing is lost, nothing that was recorded is called again."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from controller.api import timestamps
from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream, both_checkpoints
from tests.support.eventually import eventually
from tests.support.replicas import Replica

pytestmark = both_checkpoints

USERS = ["ana", "bo", "cy", "di"]
RULES = [
    {"user": "bo", "step": "profile", "action": "busy", "count": 1},
    {"user": "cy", "step": "permissions", "action": "fail", "count": 1},
    {"user": "di", "step": "permissions", "action": "reject", "sequence": 3},
]
#: Between the Lease and the list, the list and the first call, before a call, between its answer and the write, the
#: write and what the controller makes of it; each the first time and later.
POINTS = [
    "controller.leased",
    "controller.listed",
    "controller.calling",
    "controller.calling:9",
    "controller.answered",
    "controller.answered:9",
    "controller.written",
    "controller.written:9",
    "controller.recorded",
    "controller.recorded:8",
]


def crash(stream: ControllerStream, replica: Replica, point: str) -> int:
    """Run it until it kills itself at that point; by when all that it had begun was over, in ns."""
    replica.start_with_failpoint(point)
    eventually(lambda: not replica.running, 30)
    stream.calls()  # on a busy machine its last calls may arrive after its death, but before this request
    eventually(lambda: all(call.end is not None for call in stream.calls()))
    return time.time_ns()


@pytest.fixture
def stopped(start_controller: StartReplica) -> Replica:
    """A controller that does not run yet; it is killed at the end whatever runs under its name."""
    replica = start_controller("controller-crashing", wait=False)
    replica.kill()
    return replica


@pytest.mark.parametrize("point", POINTS)
def test_killed_between_two_effects(stream: ControllerStream, stopped: Replica, point: str) -> None:
    stream.rules(*RULES, latency=0.02)
    stream.apply(every={"busyDelaySeconds": 1, "retry": {"initialSeconds": 0.3}})
    made = stream.records(USERS, 2, datetime.now(UTC))
    crashed = crash(stream, stopped, point)
    recorded = {
        (name, step["name"], step["completionTime"])
        for name in stream.phases()
        for step in stream.status(name).get("steps", ())
    }
    before = len(stream.calls())
    stopped.start()
    eventually(lambda: settled(stream), 30)
    again = {(stream.record_name(call.sequence or 0), call.step) for call in stream.calls()[before:]}
    assert not again & {(name, step) for name, step, _ in recorded}, "a recorded step was called again"
    kept = {
        (name, step["name"], step["completionTime"])
        for name in stream.phases()
        for step in stream.status(name).get("steps", ())
    }
    assert recorded <= kept, "a checkpoint was lost or written anew"
    finished = [each for each in made if each != ("di", 3)]
    # What was recorded is compared above; on a busy machine it takes a while until the death is seen.
    assert stream.violations(finished=finished, only=made, crashes=[crashed], checkpoint_seconds=15, busy_delay=1) == []


def settled(stream: ControllerStream) -> bool:
    phases = stream.phases()
    rejected = stream.record_name(3)
    return phases.pop(rejected) == "Failed" and set(phases.values()) == {"Succeeded"}


@pytest.mark.parametrize("point", ["controller.collecting:3", "controller.collected:3"])
def test_killed_while_it_collects(stream: ControllerStream, stopped: Replica, point: str) -> None:
    names = [stream.add("ana", number, ttlSecondsAfterFinished=3600) for number in range(8)]
    condition = {"type": "Succeeded", "status": "True", "reason": "Succeeded", "message": "done"}
    long_ago = timestamps.to_text(datetime.now(UTC) - timedelta(hours=2))
    status = {"status": {"phase": "Succeeded", "conditions": [{**condition, "lastTransitionTime": long_ago}]}}
    for name in names:
        stream.kube.patch(stream.namespace, "userupdates", name, status, status=True)
    stream.apply()
    crash(stream, stopped, point)
    assert len(stream.phases()) <= (5 if point.startswith("controller.collected") else 8)
    stopped.start()
    eventually(lambda: not stream.phases(), 30)
    assert stream.calls() == []


def test_killed_with_a_call_in_flight_that_takes_effect(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    """The downstream did it, but nobody heard: the repeat has the same key, so that it is done once."""
    stream.rules({"step": "permissions", "action": "slow", "seconds": 1, "count": 1})
    stream.apply()
    controller = start_controller("controller-crashing")
    name = stream.add()
    stream.called(2)
    eventually(lambda: len(stream.status(name).get("steps", ())) == 1)
    controller.kill()
    controller.start()
    stream.until(name, "Succeeded", within=20)
    first, second = [call for call in stream.calls() if call.step == "permissions"]
    assert first.key == second.key
    assert [first.applied, second.applied].count(True) == 1
    assert stream.violations(finished=[("ana", 1)]) == []
