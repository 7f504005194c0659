"""Suspension of an update, of users and of a stream; streams missing, deleted or changed with work in flight."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from tests.support.controller_stream import ControllerStream, all_steps, both_checkpoints, steps
from tests.support.eventually import Stopwatch, eventually

pytestmark = pytest.mark.usefixtures("controller")

#: Seconds within which a changed spec acts: two, and more where the machine is busy with other things.
AT_ONCE = 5


def test_a_suspended_update_keeps_the_users_later_ones_waiting(stream: ControllerStream) -> None:
    stream.apply()
    first, second = stream.add("ana", 1, suspend=True), stream.add("ana", 2)
    other = stream.add("bo", 1)
    stream.until(other, "Succeeded")
    stream.until(first, "Waiting", "Suspended")
    assert stream.phases()[second] is None
    stream.suspend(first, False)
    stream.until(first, "Succeeded", within=AT_ONCE)
    stream.until(second, "Succeeded")
    assert steps(stream.calls("ana")) == all_steps("ana", 1, 2)


def test_suspending_a_queued_update_stops_the_user_there(stream: ControllerStream) -> None:
    stream.rules({"sequence": 1, "step": "resources", "action": "slow", "seconds": 1})
    stream.apply()
    first, second, third = (stream.add("ana", sequence) for sequence in (1, 2, 3))
    stream.called(3)
    stream.suspend(second)
    stream.until(first, "Succeeded")
    stream.until(second, "Waiting", "Suspended")
    stream.suspend(second, False)
    stream.until(third, "Succeeded", within=AT_ONCE)
    assert steps(stream.calls()) == all_steps("ana", 1, 2, 3)


def test_suspended_users_wait_and_others_do_not(stream: ControllerStream) -> None:
    stream.apply(suspend={"users": ["ana"]})
    name, other = stream.add("ana", 1), stream.add("bo", 1)
    stream.until(other, "Succeeded")
    stream.until(name, "Waiting", "Suspended")
    stream.change(suspend={"users": []})
    stream.until(name, "Succeeded", within=AT_ONCE)


def test_a_suspended_stream_calls_nothing_until_it_is_resumed(stream: ControllerStream) -> None:
    stream.apply(suspend={"processing": True})
    names = [stream.add(user, sequence) for user in ("ana", "bo") for sequence in (1, 2)]
    stream.until(names[0], "Waiting", "StreamSuspended")
    stream.until(names[2], "Waiting", "StreamSuspended")
    eventually(lambda: stream.condition().get("reason") == "Suspended")
    assert stream.calls() == []
    stream.change(suspend={"processing": False})
    for name in names:
        stream.until(name, "Succeeded", within=AT_ONCE)


@both_checkpoints
def test_suspending_a_stream_lets_the_running_step_end_and_keeps_its_result(stream: ControllerStream) -> None:
    stream.rules({"step": "permissions", "action": "slow", "seconds": 1})
    stream.apply()
    name = stream.add()
    stream.called(2)
    stream.change(suspend={"processing": True})
    status = stream.until(name, "Waiting", "StreamSuspended")
    assert [step["name"] for step in status["steps"]] == ["profile", "permissions"]
    stream.change(suspend={"processing": False})
    stream.until(name, "Succeeded", within=AT_ONCE)
    assert steps(stream.calls()) == all_steps("ana", 1)


def test_suspending_an_update_while_its_step_runs(stream: ControllerStream) -> None:
    stream.rules({"step": "profile", "action": "slow", "seconds": 1})
    stream.apply()
    name = stream.add()
    stream.called(1)
    stream.suspend(name)
    status = stream.until(name, "Waiting", "Suspended")
    assert [step["name"] for step in status["steps"]] == ["profile"]
    stream.suspend(name, False)
    stream.until(name, "Succeeded", within=AT_ONCE)
    assert steps(stream.calls()) == all_steps("ana", 1)


def test_a_suspension_ends_no_delay(stream: ControllerStream) -> None:
    stream.rules({"step": "profile", "action": "busy", "count": 1})
    stream.apply(every={"busyDelaySeconds": 2})
    name = stream.add()
    due = stream.until(name, "Waiting", "DownstreamBusy")["nextAttemptTime"]
    stream.suspend(name)
    assert stream.until(name, "Waiting", "Suspended", within=AT_ONCE)["nextAttemptTime"] == due
    stream.suspend(name, False)
    assert stream.until(name, "Waiting", "DownstreamBusy", within=AT_ONCE)["nextAttemptTime"] == due
    stream.until(name, "Succeeded")
    assert stream.violations(busy_delay=2) == []


def test_updates_wait_for_a_missing_stream(stream: ControllerStream) -> None:
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    status = stream.until(first, "Waiting", "StreamMissing")
    assert stream.stream in status["conditions"][0]["message"]
    assert stream.phases()[second] is None
    stream.apply()
    stream.until(second, "Succeeded")
    assert steps(stream.calls()) == all_steps("ana", 1, 2)


@pytest.mark.parametrize(("verb", "phase"), [("skip", "Skipped"), ("cancel", "Cancelled")])
def test_an_update_without_its_stream_can_be_taken_out(stream: ControllerStream, verb: str, phase: str) -> None:
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    stream.until(first, "Waiting", "StreamMissing")
    stream.ask(first, verb)
    stream.until(first, phase)
    stream.until(second, "Waiting", "StreamMissing")


@both_checkpoints
def test_a_stream_deleted_with_a_call_in_flight(stream: ControllerStream) -> None:
    stream.rules({"step": "permissions", "action": "hang", "count": 1})
    stream.apply()
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    stream.called(2)
    stream.remove()
    stream.until(first, "Waiting", "StreamMissing")
    assert stream.calls()[1].gone, "its connection was closed"
    assert len(stream.status(first)["steps"]) == 1
    stream.apply()
    stream.until(second, "Succeeded")
    assert [call.step for call in stream.calls()][:4] == ["profile", "permissions", "permissions", "resources"]
    assert stream.violations(finished=[("ana", 1), ("ana", 2)]) == []


def test_a_stream_made_again_at_once_waits_for_the_calls_of_the_old_one(stream: ControllerStream) -> None:
    stream.rules({"step": "profile", "action": "hang", "count": 1})
    stream.apply()
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    stream.called(1)
    stream.remove()
    stream.apply()
    stream.until(first, "Succeeded")
    stream.until(second, "Succeeded")
    assert [call.step for call in stream.calls()][:3] == ["profile", "profile", "permissions"]
    hanging, repeat = stream.calls()[:2]
    assert hanging.end is not None and hanging.end < repeat.number, "two calls of one user at a time"
    assert stream.violations(finished=[("ana", 1), ("ana", 2)]) == []


def test_a_changed_url_is_used_by_the_next_call(stream: ControllerStream) -> None:
    stream.rules({"step": "profile", "action": "slow", "seconds": 1})
    wrong = {"url": f"{stream.environment.downstream_url}/elsewhere"}
    stream.apply(permissions=wrong)
    name = stream.add()
    stream.called(1)
    stream.change(steps={"permissions": {"url": f"{stream.environment.downstream_url}/permissions"}})
    stream.until(name, "Succeeded")
    assert steps(stream.calls()) == all_steps("ana", 1)


def test_one_call_at_a_time_where_a_step_says_so(stream: ControllerStream) -> None:
    stream.rules({"user": "ana", "step": "profile", "action": "slow", "seconds": 2.5})
    stream.apply(profile={"concurrency": 1})
    first = stream.add("ana", 1)
    stream.called(1)
    others = [stream.add(f"user{number}", 1) for number in range(5)]
    stream.until(others[0], "Waiting", "StepConcurrency")
    for name in [first, *others]:
        stream.until(name, "Succeeded")
    calls = [call for call in stream.calls() if call.step == "profile"]
    assert all(earlier.end and earlier.end < later.number for earlier, later in pairwise(calls))


def test_a_wider_concurrency_acts_at_once(stream: ControllerStream) -> None:
    stream.rules({"user": "ana", "step": "profile", "action": "slow", "seconds": 8})
    stream.apply(profile={"concurrency": 1})
    stream.add("ana", 1)
    stream.called(1)
    other = stream.add("bo", 1)
    stream.until(other, "Waiting", "StepConcurrency")
    stream.change(steps={"profile": {"concurrency": 2}})
    stream.until(other, "Succeeded", within=AT_ONCE)


@pytest.mark.parametrize("meanwhile", ["suspended", "deleted", "skipped"])
def test_who_waits_for_a_slot_is_not_called_once_it_may_not(stream: ControllerStream, meanwhile: str) -> None:
    stream.rules({"user": "ana", "step": "profile", "action": "slow", "seconds": 3})
    stream.apply(profile={"concurrency": 1})
    first = stream.add("ana", 1)
    stream.called(1)
    name = stream.add("bo", 1)
    stream.until(name, "Waiting", "StepConcurrency")
    watch = Stopwatch()
    if meanwhile == "suspended":
        stream.suspend(name)
        stream.until(name, "Waiting", "Suspended", within=AT_ONCE)
    elif meanwhile == "deleted":
        stream.delete(name)
    else:
        stream.ask(name, "skip")
        stream.until(name, "Skipped", within=AT_ONCE)
    assert watch.seconds < AT_ONCE
    stream.until(first, "Succeeded")
    stream.until(stream.add("cy", 1), "Succeeded")
    assert stream.calls("bo") == []


def test_a_changed_spec_acts_at_once_beside_a_thousand_hanging_calls(stream: ControllerStream) -> None:
    stream.rules({"user": "stuck*", "action": "hang"})
    stream.apply(suspend={"users": ["ana"]})
    stream.records([f"stuck{number}" for number in range(1000)], 1, datetime.now(UTC))
    stream.called(1000, within=20)
    stream.until(stream.add("ana", 1), "Waiting", "Suspended")
    began = time.time_ns()
    stream.change(suspend={"users": []})
    (first, *_) = stream.called(1, "ana")
    assert (first.time_ns - began) / 1e9 < 2, "seconds"
