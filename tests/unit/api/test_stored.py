"""Objects that earlier versions have stored are read by this one, to the last field, and pass its schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from controller.api.offset_queue import OffsetQueue
from controller.api.update_stream import UpdateStream
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Phase, Reason
from tests.support.schemas import closed, schema

STORED = sorted((Path(__file__).parents[2] / "stored").glob("*.yaml"))
OBJECTS = [
    pytest.param(item, id=f"{path.stem}-{item['kind']}-{item['metadata']['name']}")
    for path in STORED
    for item in yaml.safe_load_all(path.read_text())
]
UPDATES = [each for each in OBJECTS if each.values[0]["kind"] == "UserUpdate"]  # type: ignore[index]


def of_kind(path: Path, kind: str) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all(path.read_text()) if item["kind"] == kind]


@pytest.mark.parametrize("item", OBJECTS)
def test_it_passes_the_schema_of_today(item: dict[str, Any]) -> None:
    found = closed(schema(f"{item['kind'].lower()}s"))
    found["properties"].update({name: {} for name in ("apiVersion", "kind", "metadata")})
    jsonschema.validate(item, found, jsonschema.Draft4Validator)


@pytest.mark.parametrize("item", UPDATES)
def test_a_status_is_read_to_the_last_field(item: dict[str, Any]) -> None:
    read = UserUpdate.from_body(item)
    if "status" in item:
        assert {key: value for key, value in read.status.for_status().items() if value is not None} == item["status"]
    assert (read.spec.user, read.spec.sequence, read.spec.stream) == tuple(
        item["spec"][name] for name in ("user", "sequence", "stream")
    )


@pytest.mark.parametrize("item", UPDATES)
def test_what_was_only_suspended_was_not_called_and_what_was_answered_was(item: dict[str, Any]) -> None:
    status = UserUpdate.from_body(item).status
    if not status.finished:
        assert status.called == (status.reason not in (None, Reason.SUSPENDED))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_every_version_has_stored_something_in_every_phase(path: Path) -> None:
    statuses = [UserUpdate.from_body(item).status for item in of_kind(path, "UserUpdate")]
    assert {status.phase for status in statuses} >= {None, *Phase} - {Phase.RUNNING}
    assert {status.reason for status in statuses} >= {Reason.HELD, Reason.SUSPENDED, Reason.DOWNSTREAM_BUSY}
    assert any(status.steps and not status.finished for status in statuses), "one in the middle of its steps"


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_streams_backlogs_and_positions_are_read(path: Path) -> None:
    (stream,) = (UpdateStream.from_body(item) for item in of_kind(path, "UpdateStream"))
    assert stream.limits.max_per_user == 2 and stream.suspend.users == {"big"}
    (entry,) = of_kind(path, "UpdateStream")[0]["status"]["partitions"]
    assert entry["position"] > 0 and entry["topicId"]
    (backlog,) = of_kind(path, "UserBacklog")
    (waiting,) = backlog["spec"]["partitions"]
    offsets = OffsetQueue.decode(waiting["offsets"])
    assert (len(offsets), offsets.first, offsets.last) == (waiting["count"], waiting["first"], waiting["last"])
