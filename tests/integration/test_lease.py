"""One controller works on a stream at a time: standing by, taking over, freezing, an API server that is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.conftest import StartReplica
from tests.eventually import eventually
from tests.processing import Processing, both_ways, steps, whole

pytestmark = pytest.mark.timeout(150)

USERS = [f"user{number}" for number in range(20)]


def test_a_second_controller_stands_by_and_takes_over_from_a_killed_one(
    stream: Processing, start_controller: StartReplica
) -> None:
    stream.rules(latency=0.1)
    stream.apply()
    first = start_controller("controller-first")
    stream.held_by("controller-first")
    second = start_controller("controller-second")
    made = stream.records(USERS, 8, datetime.now(UTC))
    eventually(lambda: "Succeeded" in stream.phases().values())
    assert 'lease_held{stream="' not in second.metrics(), "it has never held any"
    first.kill()
    killed = time.time()
    before = len(stream.calls())
    stream.called(before + 1, within=20)
    stream.held_by("controller-second")
    taken = next(call.time_ns / 1e9 for call in stream.calls() if call.time_ns / 1e9 > killed + 1)
    assert taken - killed < 15
    stream.all_finished(40)
    assert stream.violations(finished=made, only=made, crashes=[int(killed * 1e9)]) == []


def test_a_stopped_controller_lets_the_other_in_at_once(stream: Processing, start_controller: StartReplica) -> None:
    stream.rules(latency=0.1)
    stream.apply()
    first = start_controller("controller-first")
    stream.held_by("controller-first")
    start_controller("controller-second")
    made = stream.records(USERS, 5, datetime.now(UTC))
    eventually(lambda: "Succeeded" in stream.phases().values())
    stopped = time.monotonic()
    first.stop()
    stream.held_by("controller-second", within=5)
    before = len(stream.calls())
    stream.called(before + 1)
    assert time.monotonic() - stopped < 4, "two seconds, and what a busy machine adds"
    stream.all_finished(30)
    # What was called was recorded before the Lease was given away: nothing comes twice.
    assert stream.violations(finished=made, only=made) == []


@both_ways
def test_a_hanging_call_is_cut_before_the_lease_is_given_away(
    stream: Processing, start_controller: StartReplica
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
    stream: Processing, start_controller: StartReplica
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


def test_a_frozen_controller_calls_nothing_when_it_thaws(stream: Processing, start_controller: StartReplica) -> None:
    stream.rules(latency=0.3)
    stream.apply()
    frozen = start_controller("controller-frozen")
    stream.held_by("controller-frozen")
    start_controller("controller-successor")
    made = stream.records(USERS, 10, datetime.now(UTC))
    eventually(lambda: "Succeeded" in stream.phases().values())
    frozen.freeze()
    began, answered = time.monotonic(), time.time_ns() + 500_000_000
    stream.held_by("controller-successor", within=20)
    eventually(lambda: time.monotonic() - began > 20, within=25)
    frozen.thaw()
    stream.all_finished(40)
    # What was in flight then was answered unheard, and is repeated with its key; nothing else is out of place.
    assert stream.violations(finished=made, only=made, frozen=1, crashes=[answered]) == []
    eventually(lambda: "lease_held" in frozen.metrics())
    assert f'lease_held{{stream="{stream.namespace}/{stream.stream}"}} 0.0' in frozen.metrics()


@pytest.fixture
def apiserver_thawed(stream: Processing) -> Iterator[None]:
    yield
    stream.environment.thaw("apiserver")


@both_ways
@pytest.mark.usefixtures("apiserver_thawed")
def test_outcomes_outlast_an_outage_of_the_api_server_and_calls_do_not(
    stream: Processing, start_controller: StartReplica
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
    assert steps(stream.calls("answered")) == whole("answered", 1), "what was answered is not asked again"
    assert [call.step for call in stream.calls("hanging")] == ["profile", "permissions", "permissions", "resources"]
    assert stream.violations(finished=[("answered", 1), ("hanging", 1)]) == []
