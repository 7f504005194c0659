"""An update whose downstream rejects it, is busy or fails, and what a person can do about it."""

from __future__ import annotations

from typing import Any

import pytest

from controller.api.timestamps import from_text
from tests.support.controller_stream import ControllerStream, all_steps, steps
from tests.support.eventually import eventually

pytestmark = pytest.mark.usefixtures("controller")

REJECTING = {"step": "permissions", "action": "reject", "sequence": 1}
FAILING = {"step": "permissions", "action": "fail", "sequence": 1}
SHORT_RETRIES = {"retry": {"initialSeconds": 0.1, "maxSeconds": 0.1, "maxAttempts": 2}}


def test_a_rejected_update_fails_and_the_next_one_runs(stream: ControllerStream) -> None:
    stream.rules(REJECTING)
    stream.apply()
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    status = stream.until(first, "Failed", "Rejected")
    assert status["conditions"][0]["status"] == "False"
    assert "422" in status["conditions"][0]["message"]
    assert status["attempts"] == 1
    stream.until(second, "Succeeded")
    assert steps(stream.calls()) == [*all_steps("ana", 1)[:2], *all_steps("ana", 2)]


def test_an_exhausted_update_fails_where_the_stream_says_so(stream: ControllerStream) -> None:
    stream.rules(FAILING)
    stream.apply(every=SHORT_RETRIES, onExhausted="Continue")
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    assert stream.until(first, "Failed", "Exhausted")["attempts"] == 2
    stream.until(second, "Succeeded")
    assert [call.step for call in stream.calls()].count("permissions") == 3


@pytest.mark.parametrize(
    ("rule", "held"), [(REJECTING, "Rejected"), (FAILING, "Exhausted")], ids=["rejected", "exhausted"]
)
@pytest.mark.parametrize("release", ["retry", "skip", "cancel", "delete", "policy"])
def test_a_held_head_keeps_the_rest_waiting_until_it_is_released(
    stream: ControllerStream, rule: dict[str, str], held: str, release: str
) -> None:
    stream.rules(rule)
    stream.apply(every=SHORT_RETRIES, onRejected="Hold")
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    status = stream.until(first, "Waiting", "Held")
    assert status["held"] == held
    assert "nextAttemptTime" not in status
    calls = len(stream.calls("ana"))
    stream.rules()
    if release == "delete":
        stream.delete(first)
    elif release == "policy":
        stream.change(onRejected="Continue", onExhausted="Continue")
    else:
        assert stream.phases()[second] is None
        stream.ask(first, release)
    stream.until(second, "Succeeded")
    ends = {"retry": "Succeeded", "skip": "Skipped", "cancel": "Cancelled", "delete": None, "policy": "Failed"}
    assert stream.phases().get(first) == ends[release]
    if release == "policy":
        assert stream.reason(first) == held
    again = all_steps("ana", 1)[1:] if release == "retry" else []
    assert steps(stream.calls("ana"))[calls:] == [*again, *all_steps("ana", 2)]
    assert len({call.key for call in stream.calls("ana") if call.step == "permissions"}) == 2


def test_retry_gives_all_attempts_again(stream: ControllerStream) -> None:
    stream.rules(FAILING)
    stream.apply(every=SHORT_RETRIES)
    name = stream.add("ana", 1)
    stream.until(name, "Waiting", "Held")
    stream.ask(name, "retry")
    stream.called(5)
    assert stream.until(name, "Waiting", "Held")["attempts"] == 2
    stream.ask(name, "retry:once-more")
    stream.called(7)
    stream.until(name, "Waiting", "Held")
    assert len({call.key for call in stream.calls() if call.step == "permissions"}) == 1


def test_restart_does_all_steps_again_under_new_keys(stream: ControllerStream) -> None:
    stream.rules(REJECTING)
    stream.apply(onRejected="Hold")
    name = stream.add("ana", 1)
    stream.until(name, "Waiting", "Held")
    stream.rules()
    stream.ask(name, "restart")
    assert stream.until(name, "Succeeded")["run"] == 1
    calls = stream.calls()
    assert [call.step for call in calls] == ["profile", "permissions", "profile", "permissions", "resources"]
    assert [call.key.rsplit("/", 1)[1] for call in calls if call.key] == ["0", "0", "1", "1", "1"]
    assert stream.violations(rerun=[("ana", 1)]) == []


@pytest.mark.parametrize(("verb", "phase"), [("skip", "Skipped"), ("cancel", "Cancelled")])
def test_a_queued_update_is_taken_out_before_its_turn(stream: ControllerStream, verb: str, phase: str) -> None:
    stream.rules({"sequence": 1, "action": "busy", "count": 1})
    stream.apply(every={"busyDelaySeconds": 60})
    first, second, third = (stream.add("ana", sequence) for sequence in (1, 2, 3))
    stream.until(first, "Waiting", "DownstreamBusy")
    stream.ask(second, verb)
    stream.until(second, phase, within=5)
    stream.rules()
    stream.ask(first, "retry")  # ends a delay too
    stream.until(third, "Succeeded")
    assert steps(stream.calls()) == [("ana", 1, "profile"), *all_steps("ana", 1), *all_steps("ana", 3)]


def test_failures_are_retried_and_counted_for_each_step(stream: ControllerStream) -> None:
    stream.rules(
        {"step": "permissions", "action": "fail", "count": 2},
        # Twice for one attempt: the first reset is of a kept connection, which is made anew.
        {"step": "resources", "action": "reset", "at": "answer", "count": 2},
    )
    stream.apply(every={"retry": {"initialSeconds": 0.2, "factor": 2}})
    status = stream.until(stream.add(), "Succeeded")
    assert [step["attempts"] for step in status["steps"]] == [1, 3, 2]
    first, second, third = (call.time_ns / 1e9 for call in stream.calls() if call.step == "permissions")
    assert second - first >= 0.2
    assert third - second >= 0.4
    assert stream.violations(finished=[("ana", 1)]) == []


@pytest.mark.parametrize("status", [429, 503, 200], ids=str)
def test_retry_after_is_honoured(stream: ControllerStream, status: int) -> None:
    stream.rules({"step": "profile", "action": "busy", "status": status, "retryAfter": 2, "count": 1})
    stream.apply(every={"busyDelaySeconds": 30})
    name = stream.add()
    waiting = stream.until(name, "Waiting", "DownstreamBusy")
    stream.until(name, "Succeeded")
    first, second = stream.calls()[:2]
    assert first.end_time_ns
    assert 2 <= (second.time_ns - first.end_time_ns) / 1e9 <= 2.2 + 3
    assert second.time_ns / 1e9 >= from_text(waiting["nextAttemptTime"]).timestamp()


QUICK_REPEATS = {"retry": {"initialSeconds": 0.1, "maxSeconds": 0.5, "maxAttempts": 3}}


def test_a_refused_token_is_the_streams_trouble_and_stops_nobody_else(stream: ControllerStream) -> None:
    stream.rules({"user": "a*", "step": "profile", "action": "fail", "status": 401})
    stream.apply(every=QUICK_REPEATS)
    refused, other = stream.add("ana", 1), stream.add("bo", 1)
    stream.until(other, "Succeeded")
    assert stream.until(refused, "Waiting", "StepMisconfigured")
    stream.called(5, "ana")  # more often than maxAttempts: a stream's fault uses none up

    def told(status: str, words: str) -> bool:
        condition = stream.condition()
        assert condition.get("status") == status and words in condition["message"], condition
        return True

    # One user's trouble is told of and does not condemn the stream; most users' does.
    eventually(lambda: told("True", "profile: 1 of 2 users waits: 401 from profile: check the step's url and"))
    others = [stream.add(user, 1) for user in ("abe", "amy", "art")]
    eventually(lambda: told("False", "profile: 4 of 5 users wait: 401 from profile"))
    assert stream.condition()["reason"] == stream.condition("Ready")["reason"] == "StepMisconfigured"
    stream.until(stream.add("cy", 1), "Succeeded")
    stream.rules()
    for name in (refused, *others):
        stream.until(name, "Succeeded")
    eventually(lambda: told("True", "updates are applied as they come"))


@pytest.mark.parametrize(
    ("action", "secret", "cause"),
    [
        ({}, "not-there", "there is no Secret not-there for permissions, or no right to read it"),
        ({"action": "fail", "status": 404}, None, "404 from permissions: check the step's url and credentials"),
        ({"action": "redirect"}, None, "302 from permissions: redirects are not followed, check the step's url"),
    ],
    ids=["secret", "path", "redirect"],
)
def test_a_step_that_serves_nobody_is_named_with_its_cause(
    stream: ControllerStream, action: dict[str, Any], secret: str | None, cause: str
) -> None:
    stream.rules(*([{"step": "permissions", **action}] if action else []))
    stream.apply(every=QUICK_REPEATS, permissions={"secretRef": {"name": secret}} if secret else {})
    names = [stream.add(user, 1) for user in ("ana", "bo", "cy")]
    for name in names:
        stream.until(name, "Waiting", "StepMisconfigured")
    eventually(lambda: stream.condition().get("reason") == "StepMisconfigured")
    assert stream.condition()["message"].startswith(f"permissions: 3 users wait: {cause}"), stream.condition()


def test_a_corrected_url_is_called_at_once(stream: ControllerStream) -> None:
    stream.apply(every={"retry": {"initialSeconds": 60}}, profile={"url": "http://127.0.0.1:9/"})
    names = [stream.add("ana", 1), stream.add("bo", 1)]
    for name in names:
        stream.until(name, "Waiting", "BackingOff")
    stream.rules({"step": "permissions", "action": "fail", "status": 404, "count": 1})
    stream.change(steps={"profile": {"url": f"{stream.environment.inside.downstream_url}/profile"}})
    for name in names:
        stream.until(name, "Waiting", "StepMisconfigured", within=5)
    stream.change(steps={"permissions": {"url": f"{stream.environment.inside.downstream_url}/permissions?anew"}})
    for name in names:
        stream.until(name, "Succeeded", within=5)
    assert [call.step for call in stream.calls("ana")] == ["profile", "permissions", "permissions", "resources"]
