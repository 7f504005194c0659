"""docs/resources.md: the generated parts are those of the kinds, and the examples are valid."""

from __future__ import annotations

import re

import pytest
import yaml

from controller.api import names
from controller.api.user_backlog import read_entry
from devenv import reference
from tests.support.schemas import CRDS, schema

TEXT = reference.PAGE.read_text()


def test_the_page_is_as_generated() -> None:
    assert reference.page(TEXT) == TEXT, "`make manifests` writes it anew"


def test_every_kind_is_in_it() -> None:
    assert sorted(re.findall(r"<!-- generated: (\w+) -->", TEXT)) == sorted(CRDS)
    for crd in CRDS.values():
        assert f"\n## {crd['spec']['names']['kind']}\n" in TEXT


@pytest.mark.parametrize(
    ("plural", "change", "want"),
    [
        ("updatestreams", "no", {"spec.kafka.topic", "spec.kafka.groupId"}),
        ("userbacklogs", "no", {"spec.stream", "spec.user"}),
        ("rejectedevents", "grows", {"spec.count", "spec.source.lastOffset"}),
        ("rejectedevents", "yes", {"spec.source", "spec.message"}),
        ("userupdates", "yes", {"spec.suspend", "spec.ttlSecondsAfterFinished"}),
        ("userupdates", "grows", set()),
    ],
)
def test_what_can_change_is_read_from_the_rules(plural: str, change: str, want: set[str]) -> None:
    found = reference.fields(schema(plural)["properties"]["spec"], "spec")
    assert {each.path for each in found if each.changes == change} == want


def test_a_page_that_is_not_as_generated_is_noticed() -> None:
    assert reference.page(TEXT.replace("Name of the topic.", "Its name.")) == TEXT


def test_the_names_and_offsets_of_the_examples_are_real() -> None:
    examples = {body["kind"]: body for body in map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))}
    backlog, rejected = examples["UserBacklog"], examples["RejectedEvent"]
    spec, (entry,) = backlog["spec"], backlog["spec"]["partitions"]
    assert backlog["metadata"]["name"] == names.backlog_name(spec["stream"], spec["user"])
    assert list(read_entry(entry)) == [entry["first"]] and entry["count"] == 1
    spec, source = rejected["spec"], rejected["spec"]["source"]
    name = names.record_name(spec["stream"], source["topicId"], source["partition"], source["offset"])
    assert rejected["metadata"]["name"] == name
