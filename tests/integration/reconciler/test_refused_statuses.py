"""The API server refuses to write a status: the condition says so, the controller tries again, nobody else waits."""

from __future__ import annotations

import pytest

from tests.support.admission import policy
from tests.support.controller_stream import ControllerStream, all_steps, steps
from tests.support.eventually import eventually

pytestmark = pytest.mark.usefixtures("controller")


def test_a_refused_status_is_told_of_and_written_once_it_may_be(stream: ControllerStream) -> None:
    name = "ana-1"
    others = f"object.metadata.name != '{name}'"
    with policy(
        stream.kube, stream.namespace, "userupdates/status", others, reason="Forbidden", message="not that one"
    ):
        stream.add("ana", 1)
        stream.apply()

        def told() -> bool:
            condition = stream.condition()
            assert condition.get("reason") == "StatusRefused", condition
            return f"{name} (" in condition["message"] and "not that one" in condition["message"]

        eventually(told)
        stream.until(stream.add("bo", 1), "Succeeded")
        assert len(stream.calls("ana")) == 1
    stream.until(name, "Succeeded")
    assert steps(stream.calls("ana")) == all_steps("ana", 1), "what was answered was not asked for again"
    eventually(lambda: stream.condition().get("reason") == "Processing")
