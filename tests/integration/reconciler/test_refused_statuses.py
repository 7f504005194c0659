"""The API server refuses to write a status: the condition says so, the controller tries again, nobody else waits."""

from __future__ import annotations

import pytest

from tests.support.eventually import eventually
from tests.support.processing import Processing, steps, whole
from tests.support.refusing import policy

pytestmark = pytest.mark.usefixtures("controller")


def test_a_refused_status_is_told_of_and_written_once_it_may_be(stream: Processing) -> None:
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
    assert steps(stream.calls("ana")) == whole("ana", 1), "what was answered was not asked for again"
    eventually(lambda: stream.condition().get("reason") == "Processing")
