"""Requests that cannot be done, and those that wait for a call: told in the object and by an Event, once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import StartReplica
from tests.eventually import eventually
from tests.processing import Processing, steps, whole

pytestmark = pytest.mark.timeout(60)


def refused(stream: Processing, name: str, request: str, why: str) -> dict[str, Any]:
    """What the update says of its request, once it and an Event say that it is refused."""

    def told() -> dict[str, Any]:
        found = dict(stream.status(name).get("refusedRequest") or {})
        assert found.get("request") == request, found
        assert why in found["message"]
        assert stream.events().count((name, "Warning", "RequestRefused")) >= 1
        return found

    return eventually(told)


@pytest.mark.usefixtures("controller")
def test_what_is_no_verb_is_told_in_the_object_and_by_an_event(stream: Processing) -> None:
    stream.apply(suspend={"processing": True})
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    stream.until(first, "Waiting", "StreamSuspended")
    stream.ask(first, "RETRY")
    stream.ask(second, "retyr")
    refused(stream, first, "RETRY", "'RETRY' is none of retry, restart, skip, cancel")
    refused(stream, second, "retyr", "is none of")
    assert stream.phases()[second] is None, "it is still queued"
    said = stream.environment.kubectl("--namespace", stream.namespace, "describe", "uu", first)
    assert said.count("'RETRY' is none of retry, restart, skip, cancel") == 2, said
    stream.change(suspend={"processing": False})
    stream.until(second, "Succeeded")
    assert steps(stream.calls()) == whole("ana", 1, 2)
    assert stream.events().count((first, "Warning", "RequestRefused")) == 1


@pytest.mark.usefixtures("controller")
def test_what_is_finished_or_was_never_called_refuses_what_cannot_be_done(stream: Processing) -> None:
    stream.rules({"sequence": 2, "action": "busy"})
    stream.apply(every={"busyDelaySeconds": 60})
    done, busy, queued = (stream.add("ana", sequence) for sequence in (1, 2, 3))
    stream.until(done, "Succeeded")
    stream.until(busy, "Waiting", "DownstreamBusy")
    stream.ask(done, "retry")
    stream.ask(queued, "restart")
    refused(stream, done, "retry", "the update is finished (Succeeded)")
    refused(stream, queued, "restart", "has not been called yet")
    assert stream.phases() == {done: "Succeeded", busy: "Waiting", queued: None}
    stream.ask(done, "skip:2")
    refused(stream, done, "skip:2", "the update is finished (Succeeded)")
    stream.ask(busy, "skip")
    stream.until(queued, "Succeeded")


def test_a_refusal_is_told_once_across_restarts_and_what_was_asked_meanwhile_is_told(
    stream: Processing, start_controller: StartReplica
) -> None:
    controller = start_controller()
    stream.apply()
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    stream.until(second, "Succeeded")
    stream.ask(first, "retry")
    refused(stream, first, "retry", "finished")
    controller.kill()
    stream.ask(second, "restart")
    controller.start()
    refused(stream, second, "restart", "finished")
    assert stream.events().count((first, "Warning", "RequestRefused")) == 1


@pytest.mark.usefixtures("controller")
def test_where_the_stream_is_missing_requests_are_refused_all_the_same(stream: Processing) -> None:
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    stream.until(first, "Waiting", "StreamMissing")
    stream.ask(first, "retyr")
    stream.ask(second, "retry")
    refused(stream, first, "retyr", "is none of")
    refused(stream, second, "retry", "has not been called yet")
    stream.until(first, "Waiting", "StreamMissing")
    assert stream.phases()[second] is None
