"""A controller goes on with what an earlier version has stored: what was recorded is not called again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from devenv.journal import STEPS
from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream
from tests.support.eventually import eventually
from tests.unit.api.test_stored import STORED

KEPT = ("name", "labels", "annotations")


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_what_was_under_way_goes_on_where_it_was(
    stream: ControllerStream, start_controller: StartReplica, path: Path
) -> None:
    stored = [item for item in yaml.safe_load_all(path.read_text()) if item["kind"] == "UserUpdate"]
    for item in stored:
        _put(stream, item)
    stream.apply(onRejected="Hold", suspend={"users": ["big"]})  # as it was stored
    start_controller()
    waiting = {item["metadata"]["name"]: item for item in stored if _may_go_on(item)}
    assert len(waiting) >= 3
    for name in waiting:
        stream.ask(name, "retry")  # its delay has long passed, or has minutes to go
    eventually(lambda: all(stream.phases()[name] == "Succeeded" for name in waiting), 30)
    for item in waiting.values():
        recorded = [step["name"] for step in item.get("status", {}).get("steps", ())]
        calls = [call.step for call in stream.calls(item["spec"]["user"]) if call.sequence == item["spec"]["sequence"]]
        assert calls == [step for step in STEPS if step not in recorded]
    others = [item for item in stored if item["metadata"]["name"] not in waiting]
    for item in others:
        assert stream.get(item["metadata"]["name"]).get("status") == item.get("status"), "finished, held or suspended"


def _may_go_on(item: dict[str, Any]) -> bool:
    status = item.get("status", {})
    reason = status.get("conditions", [{}])[0].get("reason")
    return (
        status.get("phase") in (None, "Waiting")
        and reason not in ("Held", "Suspended")
        and item["spec"]["user"] != "big"
    )


def _put(stream: ControllerStream, item: dict[str, Any]) -> None:
    """As it was stored, but for the namespace and the stream."""
    metadata = {key: value for key, value in item["metadata"].items() if key in KEPT}
    spec = item["spec"] | {"stream": stream.stream}
    stream.kube.create(stream.namespace, "userupdates", {"metadata": metadata, "spec": spec})
    if "status" in item:
        body = {"status": item["status"]}
        stream.kube.patch(stream.namespace, "userupdates", metadata["name"], body, status=True)
