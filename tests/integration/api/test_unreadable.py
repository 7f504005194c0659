"""Objects that this version does not understand, as a newer one may have written them: they wait, conditions say so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from controller.clients.stream_status import NO_BRIDGE, with_unknown
from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream, all_steps, steps
from tests.support.eventually import eventually
from tests.support.kube import Kube

#: The API server takes it as a time; nobody can wait for it.
NO_TIME = "0000-01-01T00:00:00Z"
NO_ZONE = "2026-01-01T00:00:00+99:99"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/updatestreams.enrichment.dev"


def set_status(stream: ControllerStream, name: str, **status: Any) -> None:
    stream.kube.patch(stream.namespace, "userupdates", name, {"status": status}, status=True)


def told(stream: ControllerStream, reason: str, *texts: str, kind: str = "Processing") -> bool:
    condition = stream.condition(kind)
    assert condition.get("reason") == reason, condition
    assert all(text in condition["message"] for text in texts), condition
    return str(condition["status"]) == "False"


def test_an_update_that_is_not_understood_keeps_its_user_waiting_and_is_told_of(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    set_status(stream, first, phase="Waiting", nextAttemptTime=NO_TIME)
    source = {"topic": "t", "topicId": "A" * 22, "partition": 0, "offset": 5, "timestamp": NO_ZONE}
    unplaced = stream.add("cy", 5, "unplaced", source=source)
    others = [stream.add("cy", 1), stream.record("cy", 3, datetime(2026, 1, 1, tzinfo=UTC))]
    stream.apply()
    controller = start_controller()
    stream.until(stream.add("bo", 1), "Succeeded")
    eventually(lambda: told(stream, "UpdateUnreadable", "2 users", first))
    assert f'users{{namespace="{stream.namespace}",state="unreadable"' in controller.metrics()
    set_status(stream, first, nextAttemptTime=None)
    stream.until(second, "Succeeded")
    assert [stream.phases()[name] for name in others] == [None, None], "nobody can tell who comes first"
    stream.delete(unplaced)
    for name in others:
        stream.until(name, "Succeeded")
    assert steps(stream.calls("ana")) == all_steps("ana", 1, 2)
    eventually(lambda: stream.condition().get("reason") == "Processing")
    assert controller.log.read_text().count(f"update={first} ") == 1, "a line for each cause"


def test_an_outcome_in_hand_waits_for_an_update_that_is_not_understood(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    stream.rules({"step": "profile", "action": "slow", "seconds": 1})
    stream.apply()
    start_controller()
    name = stream.add("ana", 1)
    stream.called(1)
    set_status(stream, name, phase="Waiting", nextAttemptTime=NO_TIME)
    eventually(lambda: told(stream, "UpdateUnreadable", name))
    stream.until(stream.add("bo", 1), "Succeeded")
    assert len(stream.calls("ana")) == 1
    set_status(stream, name, phase=None, nextAttemptTime=None)
    stream.until(name, "Succeeded")
    assert steps(stream.calls("ana")) == all_steps("ana", 1), "what was answered was recorded, and not asked for again"


def test_without_its_stream_an_update_that_is_not_understood_is_not_passed_over(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    set_status(stream, first, phase="Waiting", nextAttemptTime=NO_TIME)
    start_controller()
    stream.until(stream.add("bo", 1), "Waiting", "StreamMissing")
    assert stream.phases()[second] is None


@pytest.fixture
def of_tomorrow(kube: Kube) -> Iterator[None]:
    """The CRD of a newer version, which knows another policy."""

    def set_policies(*policies: str) -> None:
        (version,) = kube.call("GET", CRD)["spec"]["versions"]
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/onRejected/enum"
        assert "enum" in spec["onRejected"]
        patch = [{"op": "replace", "path": path, "value": list(policies)}]
        kube.call("PATCH", CRD, patch, headers={"Content-Type": "application/json-patch+json"})

    set_policies("Continue", "Hold", "Ask")
    yield
    set_policies("Continue", "Hold")


def test_the_updates_of_a_stream_that_is_not_understood_wait(
    stream: ControllerStream, start_controller: StartReplica, start_bridge: StartReplica, of_tomorrow: None
) -> None:
    stream.rules({"user": "ana", "step": "profile", "action": "busy", "count": 1})
    stream.apply(every={"busyDelaySeconds": 1})
    start_controller()
    start_bridge()
    busy = stream.add("ana", 1)
    stream.until(busy, "Waiting", "DownstreamBusy")

    def changed() -> bool:
        stream.change(onRejected="Ask")
        return True

    eventually(changed)  # a changed CRD takes a moment
    eventually(lambda: told(stream, "StreamUnreadable", "Ask"))
    eventually(lambda: told(stream, "StreamUnreadable", "Ask", kind="Consuming"))
    # A bridge that was cut off for a minute is back: what others have said of it meanwhile, it says itself anew.
    body = stream.kube.get(stream.namespace, "updatestreams", stream.stream)
    others = with_unknown(body["status"], "Consuming", NO_BRIDGE, "no bridge", datetime.now(UTC))
    stream.kube.patch(stream.namespace, "updatestreams", stream.stream, {"status": others}, status=True)
    eventually(lambda: told(stream, "StreamUnreadable", "Ask", kind="Consuming"))
    late = stream.add("bo", 1)
    due = time.monotonic() + 4
    eventually(lambda: time.monotonic() > due, 10)  # beyond the delay, and the grace in which a stream may come
    assert [stream.phases()[name] for name in (busy, late)] == ["Waiting", None]
    assert stream.reason(busy) == "DownstreamBusy"
    assert len(stream.calls()) == 1
    stream.change(onRejected="Hold")
    for name in (busy, late):
        stream.until(name, "Succeeded")
    eventually(lambda: stream.condition("Consuming").get("reason") not in (None, "StreamUnreadable"), 20)
