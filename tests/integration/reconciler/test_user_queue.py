"""Which update of a user is next, and how the queue goes on when updates are deleted or created again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.chaos.checkpoints import nanoseconds
from tests.support.controller_stream import ControllerStream, all_steps, both_checkpoints, steps
from tests.support.eventually import eventually
from tests.support.replicas import Replica

pytestmark = pytest.mark.usefixtures("controller")

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def test_hand_made_updates_run_by_sequence(stream: ControllerStream) -> None:
    for sequence in (7, 3, 5, 1):
        stream.add("ana", sequence)
    stream.apply()
    stream.all_finished()
    assert steps(stream.calls()) == all_steps("ana", 1, 3, 5, 7)


def test_an_update_that_has_been_called_stays_the_head(stream: ControllerStream) -> None:
    stream.rules({"sequence": 7, "step": "profile", "action": "busy", "count": 1})
    stream.apply(every={"busyDelaySeconds": 60})
    head = stream.add("ana", 7)
    begun = stream.until(head, "Waiting", "DownstreamBusy")["startTime"]
    assert nanoseconds(begun) <= stream.calls()[0].time_ns
    for sequence in (5, 3):
        stream.add("ana", sequence)
    stream.until(stream.add("bo", 1), "Succeeded")  # the watch has shown those before it
    stream.suspend(head)
    stream.until(head, "Waiting", "Suspended")
    stream.suspend(head, False)
    stream.ask(head, "retry")
    stream.all_finished()
    assert steps(stream.calls("ana")) == [("ana", 7, "profile"), *all_steps("ana", 7, 3, 5)]
    assert stream.status(head)["startTime"] == begun


def test_applied_out_of_order_while_suspended_they_run_in_order(stream: ControllerStream) -> None:
    stream.apply()
    names = []
    for sequence in (3, 1, 2):
        names.append(stream.add("ana", sequence, suspend=True))
        stream.until(min(names), "Waiting", "Suspended")
    eventually(lambda: stream.phases() == {"ana-1": "Waiting", "ana-2": None, "ana-3": None})
    for name in names:
        stream.suspend(name, False)
    stream.all_finished()
    assert steps(stream.calls()) == all_steps("ana", 1, 2, 3)


def test_one_without_its_secret_or_a_slot_has_not_been_called(stream: ControllerStream) -> None:
    stream.rules({"user": "bo", "step": "profile", "action": "hang", "count": 1})
    stream.apply(profile={"concurrency": 1})
    stream.add("bo", 1)
    stream.called(1)
    for sequence in (2, 1):
        stream.until(stream.add("ana", sequence), "Waiting", "StepConcurrency")
    stream.change(steps={"profile": {"concurrency": 2, "secretRef": {"name": "nowhere"}}})
    stream.until("ana-1", "Waiting", "StepMisconfigured")
    stream.add("ana", 0)
    status = stream.until("ana-0", "Waiting", "StepMisconfigured")
    assert (status["attempts"], status.get("startTime")) == (0, None)
    assert stream.phases()["ana-1"] is None
    stream.change(steps={"profile": {"secretRef": None}})
    stream.until("ana-2", "Succeeded")
    assert steps(stream.calls("ana")) == all_steps("ana", 0, 1, 2)


def test_between_sources_the_earliest_record_comes_first(stream: ControllerStream) -> None:
    for partition, offset, second in [(0, 0, 4), (0, 1, 5), (1, 8, 1), (1, 9, 6), (2, 3, 3)]:
        stream.record("ana", offset, LONG_AGO + timedelta(seconds=second), partition=partition)
    stream.add("ana", 1)
    stream.apply()
    stream.all_finished()
    order = [(call.source, call.sequence) for call in stream.calls() if call.step == "profile"]
    assert [(source.rsplit("/")[-1], offset) for source, offset in order if source] == [
        ("1", 8),
        ("2", 3),
        ("0", 0),
        ("0", 1),
        ("1", 9),
        ("manual", 1),
    ]
    assert stream.violations() == []


def test_an_update_waits_for_the_one_it_follows(stream: ControllerStream) -> None:
    stream.apply()
    later = stream.record("ana", 5, LONG_AGO, after=4)
    stream.until(later, "Succeeded")  # the one before it never existed, or was collected
    last = stream.record("ana", 7, LONG_AGO, after=6)
    stream.until(last, "Succeeded")
    assert steps(stream.calls()) == all_steps("ana", 5, 7)


def test_what_comes_later_is_nobodys_predecessor(stream: ControllerStream) -> None:
    """A bridge once linked a record that it read again to the user's last update, which came after it."""
    for offset, after in ((50, 10), (60, 50), (10, 60)):
        stream.record("ana", offset, LONG_AGO, after=after)
    stream.apply()
    stream.all_finished()
    assert steps(stream.calls()) == all_steps("ana", 10, 50, 60)


def test_an_update_that_the_watch_has_not_shown_is_looked_up_by_the_one_behind_it(
    stream: ControllerStream, controller: Replica
) -> None:
    stream.apply()
    stream.held_by(controller.name)
    # Running, it is outside of what the controller watches, as if another one had begun it.
    condition = {"type": "Succeeded", "status": "Unknown", "reason": "Running", "message": "begun"}
    condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    begun = {"status": {"phase": "Running", "step": "profile", "conditions": [condition]}}
    controller.freeze()
    try:
        earlier = stream.record("ana", 4, LONG_AGO)
        stream.kube.patch(stream.namespace, "userupdates", earlier, begun, status=True)
        later = stream.record("ana", 9, LONG_AGO, after=4)
    finally:
        controller.thaw()
    stream.until(later, "Succeeded")
    assert steps(stream.calls()) == all_steps("ana", 4, 9)


@both_checkpoints
def test_a_head_deleted_while_its_step_runs_lets_the_next_one_run_after_the_call(stream: ControllerStream) -> None:
    stream.rules({"sequence": 1, "step": "profile", "action": "slow", "seconds": 1})
    stream.apply()
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    stream.called(1)
    stream.delete(first)
    stream.until(second, "Succeeded")
    assert steps(stream.calls()) == [("ana", 1, "profile"), *all_steps("ana", 2)]
    assert stream.violations(finished=[("ana", 2)]) == []


@both_checkpoints
def test_an_update_deleted_and_made_again_while_its_step_runs_runs_anew(stream: ControllerStream) -> None:
    stream.rules({"step": "profile", "action": "slow", "seconds": 1, "count": 1})
    stream.apply()
    name = stream.add("ana", 1)
    stream.called(1)
    stream.delete(name)
    stream.add("ana", 1)
    second = stream.add("ana", 2)
    stream.until(name, "Succeeded")
    stream.until(second, "Succeeded")
    assert steps(stream.calls()) == [("ana", 1, "profile"), *all_steps("ana", 1, 2)]
    old, new = stream.calls()[:2]
    assert old.key != new.key, "a hand-made update of the same name is another update"
    assert old.end is not None and old.end < new.number


def test_deleting_a_waiting_head_frees_the_queue_at_once(stream: ControllerStream) -> None:
    stream.rules({"sequence": 1, "action": "busy"})
    stream.apply(every={"busyDelaySeconds": 60})
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    stream.until(first, "Waiting", "DownstreamBusy")
    stream.delete(first)
    stream.until(second, "Succeeded", within=5)


@pytest.mark.parametrize("seconds", [0, 1], ids=["waiting", "in a call"])
def test_a_deleted_update_that_a_finalizer_keeps_is_called_no_more(
    stream: ControllerStream, controller: Replica, seconds: int
) -> None:
    """The update has a finalizer, as with `--cascade=foreground`, or where a tool keeps what it has not saved yet."""
    first, second = stream.record("ana", 1, LONG_AGO), stream.record("ana", 2, LONG_AGO, after=1)
    stream.rules({"sequence": 1, "action": "slow", "seconds": 1} if seconds else {"sequence": 1, "action": "busy"})
    stream.kube.patch(stream.namespace, "userupdates", first, {"metadata": {"finalizers": ["example.com/keep"]}})
    stream.apply(every={"busyDelaySeconds": 1})
    stream.called(1)
    stream.delete(first)
    stream.until(second, "Succeeded", within=10)
    called = len(stream.calls())
    controller.kill()
    controller.start()
    stream.until(stream.record("ana", 3, LONG_AGO, after=2), "Succeeded")
    assert [call.sequence for call in stream.calls()[called:]] == [3, 3, 3]
    stream.kube.patch(stream.namespace, "userupdates", first, {"metadata": {"finalizers": None}})
    assert stream.violations(finished=[("ana", 2), ("ana", 3)]) == []


def test_an_update_that_somebody_else_finished_is_let_go(stream: ControllerStream) -> None:
    stream.rules({"sequence": 1, "action": "busy"})
    stream.apply(every={"busyDelaySeconds": 60})
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    status = stream.until(first, "Waiting", "DownstreamBusy")
    condition = {**status["conditions"][0], "status": "False", "reason": "CancelledByRequest"}
    done = {"status": {"phase": "Cancelled", "conditions": [condition], "nextAttemptTime": None}}
    stream.kube.patch(stream.namespace, "userupdates", first, done, status=True)
    stream.until(second, "Succeeded", within=5)
    assert steps(stream.calls())[1:] == all_steps("ana", 2)


@both_checkpoints
def test_an_update_finished_by_somebody_else_while_its_step_runs_stays_finished(stream: ControllerStream) -> None:
    stream.rules({"sequence": 1, "step": "permissions", "action": "slow", "seconds": 1})
    stream.apply()
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    stream.called(2)
    status = stream.until(first, "Running")
    condition = {**status["conditions"][0], "status": "False", "reason": "CancelledByRequest"}
    done = {"status": {"phase": "Cancelled", "conditions": [condition]}}
    stream.kube.patch(stream.namespace, "userupdates", first, done, status=True)
    stream.until(second, "Succeeded")
    assert stream.phases()[first] == "Cancelled"
    assert steps(stream.calls()) == [*all_steps("ana", 1)[:2], *all_steps("ana", 2)]


def test_kubectl_waits_for_the_condition(stream: ControllerStream) -> None:
    stream.rules({"step": "profile", "action": "busy", "count": 1})
    stream.apply(every={"busyDelaySeconds": 1})
    name = stream.add()
    arguments = ("wait", "--for=condition=Succeeded", f"uu/{name}", "--timeout=10s")
    said = stream.environment.kubectl("--namespace", stream.namespace, *arguments)
    assert "condition met" in said
    assert stream.phases()[name] == "Succeeded"


def test_kubernetes_events_tell_of_holds_failures_and_suspensions(stream: ControllerStream) -> None:
    stream.rules({"user": "held", "action": "reject"})
    stream.apply(onRejected="Hold", suspend={"users": ["late"]})
    held, late = stream.add("held", 1), stream.add("late", 1)
    stream.until(held, "Waiting", "Held")
    stream.until(late, "Waiting", "Suspended")
    stream.change(onRejected="Continue", suspend={"users": []})
    stream.until(held, "Failed")
    stream.until(late, "Succeeded")
    stream.until(stream.add("plain", 1), "Succeeded")
    expected = {
        (held, "Warning", "Held"),
        (held, "Warning", "Failed"),
        (late, "Normal", "Suspended"),
        (late, "Normal", "Resumed"),
        (stream.stream, "Normal", "Resumed"),
        (stream.stream, "Normal", "Processing"),
    }

    def told() -> bool:
        assert set(stream.events()) == expected, json.dumps(stream.events())
        return True

    eventually(told)
    said = stream.environment.kubectl("--namespace", stream.namespace, "describe", "uu", held)
    assert "Held" in said.partition("Events:")[2]
