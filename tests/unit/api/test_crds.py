"""The schemas by themselves: bounded, described, and of one mind with the Python types."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from controller.api.rejected_event import MAX_SHOWN_SIZE, RejectionReason
from controller.api.update_stream import UpdateStream
from controller.api.user_update_status import Phase, Reason, Status, StepRecord
from controller.core.records import FIELDS, MAX_FIELD_LENGTH
from controller.core.steps import MAX_ID_LENGTH, STEPS
from tests.support.schemas import CRDS, nodes, schema

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERYTHING = [pytest.param(node, id=path) for plural in CRDS for path, node in nodes(schema(plural), plural)]

BOUNDS = {
    "string": {"maxLength"},
    "array": {"maxItems", "items", "x-kubernetes-list-type"},
    "integer": {"minimum", "maximum", "format"},
    "number": {"minimum", "maximum"},
    "boolean": set(),
    "object": set(),
}


@pytest.mark.parametrize("node", EVERYTHING)
def test_everything_is_typed_and_described(node: dict[str, Any]) -> None:
    assert node["type"] in BOUNDS
    assert len(node["description"]) > 5
    assert node["description"].endswith((".", "}."))


@pytest.mark.parametrize("node", EVERYTHING)
def test_every_default_is_shown_by_kubectl_explain(node: dict[str, Any]) -> None:
    if (default := node.get("default")) not in (None, {}, []):
        shown = str(default).lower() if isinstance(default, bool) else default
        assert f"Default: {shown}." in node["description"]


@pytest.mark.parametrize("node", EVERYTHING)
def test_everything_is_bounded(node: dict[str, Any]) -> None:
    assert BOUNDS[node["type"]] <= node.keys()
    if node["type"] == "object":
        assert "properties" in node or {"additionalProperties", "maxProperties"} <= node.keys()
    assert "x-kubernetes-preserve-unknown-fields" not in node


@pytest.mark.parametrize("node", EVERYTHING)
def test_every_rule_has_a_message(node: dict[str, Any]) -> None:
    for rule in node.get("x-kubernetes-validations", []):
        assert rule["message"]


@pytest.mark.parametrize(
    ("plural", "kind", "short"),
    [
        ("updatestreams", "UpdateStream", "us"),
        ("userupdates", "UserUpdate", "uu"),
        ("rejectedevents", "RejectedEvent", "re"),
        ("userbacklogs", "UserBacklog", "ub"),
    ],
)
def test_the_names_are_those_of_the_contract(plural: str, kind: str, short: str) -> None:
    crd = CRDS[plural]
    assert crd["metadata"]["name"] == f"{plural}.enrichment.dev"
    assert crd["spec"]["scope"] == "Namespaced"
    assert crd["spec"]["names"]["kind"] == kind
    assert crd["spec"]["names"]["shortNames"] == [short]
    assert crd["spec"]["names"]["categories"] == ["enrichment"]
    assert [version["name"] for version in crd["spec"]["versions"]] == ["v1alpha1"]


def test_phases_and_reasons_are_those_of_the_types() -> None:
    """The schema holds their form; what they are is told to people."""
    status = schema("userupdates")["properties"]["status"]["properties"]
    reason = status["conditions"]["items"]["properties"]["reason"]
    steps = {step.name for step in STEPS}
    assert steps == set(FIELDS)
    for node, known in ((status["phase"], set(Phase)), (reason, set(Reason)), (status["step"], steps)):
        assert known <= set(re.findall(r"\w+", node["description"]))
        assert all(re.search(node["pattern"], each) for each in known)
    reason = schema("rejectedevents")["properties"]["spec"]["properties"]["reason"]
    told = reason["description"].partition(" order: ")[2].partition(". ")[0]
    assert re.findall(r"(?:^|; )(\w+)", told) == [reason.value for reason in RejectionReason]
    assert all(re.search(reason["pattern"], known.value) for known in RejectionReason)


def test_no_status_lists_what_a_later_version_may_add_to() -> None:
    """After a rollback of the kinds alone what the processes write would be refused, and nothing recorded."""
    reports = {path: node for plural in CRDS for path, node in nodes(schema(plural), plural) if ".status" in path}
    listed = [node["enum"] for node in reports.values() if "enum" in node]
    assert listed and all(values == ["True", "False", "Unknown"] for values in listed), "Kubernetes' own"


def test_lengths_are_those_of_the_readers() -> None:
    spec = schema("userupdates")["properties"]["spec"]["properties"]
    assert {spec[field]["maxLength"] for field in FIELDS} == {MAX_FIELD_LENGTH}
    steps = schema("userupdates")["properties"]["status"]["properties"]["steps"]["items"]["properties"]
    assert {node["maxLength"] for node in steps["result"]["properties"].values()} == {MAX_ID_LENGTH}
    assert steps["result"]["properties"].keys() == {step.returns for step in STEPS if step.returns}
    rejected = schema("rejectedevents")["properties"]["spec"]["properties"]
    want = (MAX_SHOWN_SIZE + 2) // 3 * 4
    assert (rejected["key"]["maxLength"], rejected["value"]["maxLength"]) == (want, want)


def test_all_that_a_status_writes_is_in_the_schema() -> None:
    record = StepRecord("profile", {"userId": "u-1"}, 1, NOW, NOW)
    status = Status(phase=Phase.RUNNING, steps=(record,), reason=Reason.RUNNING, transition_time=NOW)
    properties = schema("userupdates")["properties"]["status"]["properties"]
    written = status.for_status()
    assert written.keys() == properties.keys()
    assert written["steps"][0].keys() == properties["steps"]["items"]["properties"].keys()
    assert written["conditions"][0].keys() <= properties["conditions"]["items"]["properties"].keys()


def with_defaults(node: dict[str, Any], value: Any) -> Any:
    """What the API server makes of an object: defaults filled in, from the outside in."""
    if not isinstance(value, dict):
        return value
    properties = node.get("properties", {})
    filled = {name: child["default"] for name, child in properties.items() if "default" in child} | value
    return {name: with_defaults(properties.get(name, {}), child) for name, child in filled.items()}


def test_defaults_of_a_stream_are_those_of_the_types() -> None:
    metadata = {"namespace": "shop", "name": "orders", "uid": "1"}
    steps = {step.name: {"url": "http://downstream/"} for step in STEPS}
    kafka = {"bootstrapServers": "kafka:9092", "topic": "orders"}
    bare = {"metadata": metadata, "spec": {"kafka": kafka, "steps": steps}}
    filled = with_defaults(schema("updatestreams"), bare)
    assert filled["spec"]["limits"] == {"maxObjects": 1000, "maxPerUser": 5}
    assert UpdateStream.from_body(filled) == UpdateStream.from_body(bare)
