"""One controller works on a stream at a time: calls that hang, the same one again, an API server that is away.

Taking over from one that is killed, frozen, cut off or stopped: test_takeover.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream, all_steps, both_checkpoints, steps
from tests.support.eventually import eventually


@both_checkpoints
def test_a_hanging_call_is_cut_before_the_lease_is_given_away(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    stream.rules({"step": "permissions", "action": "hang", "count": 1})
    stream.apply()
    first = start_controller("controller-first")
    stream.held_by("controller-first")
    start_controller("controller-second")
    stream.add("ana", 1), stream.add("ana", 2)
    stream.called(2)
    first.stop()
    stream.all_finished(10)
    hanging, repeat = stream.calls()[1:3]
    assert hanging.gone and hanging.end and hanging.end < repeat.number
    assert hanging.key == repeat.key
    assert stream.violations(finished=[("ana", 1), ("ana", 2)]) == []


def test_a_restarted_controller_of_the_same_identity_goes_on_at_once(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    stream.apply(suspend={"processing": True})
    controller = start_controller("controller-again")
    name = stream.add()
    stream.until(name, "Waiting", "StreamSuspended")
    stream.held_by("controller-again")
    controller.kill()
    stream.change(suspend={"processing": False})
    controller.start()
    stream.until(name, "Succeeded", within=6)  # another one would have to wait twice as long


@pytest.fixture
def apiserver_thawed(stream: ControllerStream) -> Iterator[None]:
    yield
    stream.environment.thaw("apiserver")


@both_checkpoints
@pytest.mark.usefixtures("apiserver_thawed")
def test_outcomes_outlast_an_outage_of_the_api_server_and_calls_do_not(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    stream.rules(
        {"user": "answered", "step": "permissions", "action": "slow", "seconds": 2, "count": 1},
        {"user": "hanging", "step": "permissions", "action": "hang", "count": 1},
    )
    stream.apply()
    start_controller()
    names = [stream.add(user, 1) for user in ("answered", "hanging")]
    stream.called(4)
    stream.environment.freeze("apiserver")
    began = time.monotonic()
    (cut,) = eventually(lambda: [call for call in stream.calls("hanging") if call.gone], within=15)
    assert cut.end_time_ns is not None
    assert 5 < (cut.end_time_ns - cut.time_ns) / 1e9 < 14, "cut when the Lease could not be renewed"
    eventually(lambda: time.monotonic() - began > 21, within=25)
    assert len(stream.calls()) == 4, "without the Lease nothing is called"
    stream.environment.thaw("apiserver")
    for name in names:
        stream.until(name, "Succeeded", within=20)
    assert steps(stream.calls("answered")) == all_steps("answered", 1), "what was answered is not asked again"
    assert [call.step for call in stream.calls("hanging")] == ["profile", "permissions", "permissions", "resources"]
    assert stream.violations(finished=[("answered", 1), ("hanging", 1)]) == []
