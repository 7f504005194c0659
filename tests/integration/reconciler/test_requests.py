"""Requests that cannot be done, and those that wait for a call: told in the object and by an Event, once."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream, all_steps, steps
from tests.support.eventually import eventually

#: Seconds within which a request acts.
AT_ONCE = 5


def refused(stream: ControllerStream, name: str, request: str, why: str) -> dict[str, Any]:
    """What the update says of its request, once it and an Event say that it is refused."""

    def told() -> dict[str, Any]:
        found = dict(stream.status(name).get("refusedRequest") or {})
        assert found.get("request") == request, found
        assert why in found["message"]
        assert stream.events().count((name, "Warning", "RequestRefused")) >= 1
        return found

    return eventually(told)


@pytest.mark.usefixtures("controller")
def test_what_is_no_verb_is_told_in_the_object_and_by_an_event(stream: ControllerStream) -> None:
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
    assert steps(stream.calls()) == all_steps("ana", 1, 2)
    assert stream.events().count((first, "Warning", "RequestRefused")) == 1


@pytest.mark.usefixtures("controller")
def test_what_is_finished_or_was_never_called_refuses_what_cannot_be_done(stream: ControllerStream) -> None:
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
    stream: ControllerStream, start_controller: StartReplica
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
def test_where_the_stream_is_missing_requests_are_refused_all_the_same(stream: ControllerStream) -> None:
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    stream.until(first, "Waiting", "StreamMissing")
    stream.ask(first, "retyr")
    stream.ask(second, "retry")
    refused(stream, first, "retyr", "is none of")
    refused(stream, second, "retry", "has not been called yet")
    stream.until(first, "Waiting", "StreamMissing")
    assert stream.phases()[second] is None


@pytest.mark.usefixtures("controller")
@pytest.mark.parametrize("step", ["profile", "permissions"])
def test_what_is_asked_during_a_call_is_told_and_what_is_asked_of_others_is_done_at_once(
    stream: ControllerStream, step: str
) -> None:
    stream.rules({"sequence": 1, "step": step, "action": "slow", "seconds": 6})
    stream.apply(every={"timeoutSeconds": 600})
    first, second, third = (stream.add("ana", sequence) for sequence in (1, 2, 3))
    begun = stream.called(1 if step == "profile" else 2)[-1]
    stream.ask(first, "skip")
    stream.ask(second, "skip")
    stream.ask(third, "retry")
    stream.until(second, "Skipped", within=AT_ONCE)
    refused(stream, third, "retry", "has not been called yet")
    (note,) = eventually(lambda: notes(stream, first, "WaitsForCall"), AT_ONCE)
    assert stream.calls()[-1].end is None, "the call is under way still"
    until = datetime.fromtimestamp(begun.time_ns / 1e9, UTC) + timedelta(seconds=600)
    due = {f"{until + timedelta(seconds=late):%H:%M:%S}" for late in (-1, 0, 1)}
    said = re.fullmatch(
        rf"request 'skip' is looked at when the call of {step} under way has ended, at the latest at (\S+) UTC", note
    )
    assert said and said[1] in due, note
    stream.until(first, "Skipped", within=15)
    stream.until(third, "Succeeded")
    assert steps(stream.calls("ana")) == [*all_steps("ana", 1)[: 1 if step == "profile" else 2], *all_steps("ana", 3)]
    assert len(notes(stream, first, "WaitsForCall")) == 1


@pytest.mark.usefixtures("controller")
@pytest.mark.parametrize("meanwhile", ["skip", "suspend", "stream", "delete"])
def test_a_call_that_is_not_sent_yet_is_taken_back(stream: ControllerStream, meanwhile: str) -> None:
    with deaf() as url:
        stream.apply(profile={"url": url}, every={"timeoutSeconds": 600})
        first, second = stream.add("ana", 1), stream.add("ana", 2)
        other = stream.add("bo", 1, suspend=True)
        stream.until(other, "Waiting", "Suspended")  # the others are connecting by now
        if meanwhile == "skip":
            stream.ask(first, "skip")
            stream.until(first, "Skipped", within=AT_ONCE)
            stream.ask(second, "skip")
            stream.until(second, "Skipped", within=AT_ONCE)
        elif meanwhile == "delete":
            kept = stream.namespace, "userupdates", first
            stream.kube.patch(*kept, {"metadata": {"finalizers": ["example.com/kept"]}})
            stream.kube.delete(*kept)
            stream.ask(second, "skip")
            stream.until(second, "Skipped", within=AT_ONCE)
            stream.until(stream.add("ana", 3), "Running", "Running", within=AT_ONCE)
            stream.kube.patch(*kept, {"metadata": {"finalizers": None}})
        elif meanwhile == "suspend":
            stream.suspend(first)
            assert "startTime" not in stream.until(first, "Waiting", "Suspended", within=AT_ONCE)
        else:
            stream.change(suspend={"processing": True})
            assert "startTime" not in stream.until(first, "Waiting", "StreamSuspended", within=AT_ONCE)
    assert notes(stream, first, "WaitsForCall") == []
    assert stream.calls() == []


def notes(stream: ControllerStream, name: str, reason: str) -> list[str]:
    """Of the Events of that reason."""
    path = f"/apis/events.k8s.io/v1/namespaces/{stream.namespace}/events"
    found = stream.kube.call("GET", path)["items"]
    return [event["note"] for event in found if (event["regarding"]["name"], event["reason"]) == (name, reason)]


@contextmanager
def deaf() -> Iterator[str]:
    """The url of a host that answers no connection: its queue of them is full, and it takes none out."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as fillers:
        for _ in range(8):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}/profile"
