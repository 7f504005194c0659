"""docs/operations.md: a row for each reason, Event and metric of the code, and none besides."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client import REGISTRY, Metric

import controller.bridge.metrics
import controller.reconciler.metrics  # noqa: F401
from controller.api.rejected_event import RejectionReason
from controller.api.user_update_status import Reason
from controller.reconciler import update_events
from tests.support.transcripts import README

ROOT = README.parent
TEXT = (ROOT / "docs" / "operations.md").read_text()

#: Texts of the code that look like a reason and are none.
OTHERS = {"UpdateStream", "UserUpdate", "UserBacklog", "RejectedEvent", "EveryStep", "BearerToken"}
#: Those of the API server's answers.
ANSWERS = {"AlreadyExists", "NotFound"}
#: Reasons of a stream that are one word, which no form tells from other texts.
ONE_WORD = {"Ready", "Pending", "Consuming", "Processing", "Joining", "Restored", "Suspended"}


def trees() -> Iterator[ast.Module]:
    return (ast.parse(path.read_text()) for path in sorted((ROOT / "controller").rglob("*.py")))


def texts(tree: ast.AST) -> Iterator[str]:
    """All texts in the code, but the names that a module exports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        yield from texts(node)


#: All texts of the code that are a word or several, such as `Held` and `TopicMissing`.
WORDS = {text for tree in trees() for text in texts(tree) if re.fullmatch(r"(?:[A-Z][a-z]+)+", text)}


def rows() -> dict[str, list[list[str]]]:
    """The cells of each row that is about a reason, by the condition that the section's title names."""
    condition, found = "", defaultdict[str, list[list[str]]](list)
    for line in TEXT.splitlines():
        if line.startswith("## "):
            title = re.search(r"\(`(\w+)`\)$", line)
            condition = title[1] if title else ""
        elif condition and re.match(r"\| `\w+` \|", line):
            found[condition].append([cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


ROWS = rows()
NAMED = {condition: [row[0] for row in each] for condition, each in ROWS.items()}
OF_STREAMS = {reason for condition in ("Consuming", "Processing", "Ready") for reason in NAMED[condition]}


def event_rows() -> set[str]:
    table = TEXT.partition("\n## Events\n")[2].partition("\n## ")[0]
    return {
        name for first in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", first)
    }


def test_the_conditions_are_those_of_the_kinds() -> None:
    assert set(ROWS) == {"Ready", "Consuming", "Processing", "Succeeded"}


def test_every_reason_of_an_update_is_explained() -> None:
    assert sorted(NAMED["Succeeded"]) == sorted(Reason)


def test_every_reason_of_a_stream_is_explained() -> None:
    several = {word for word in WORDS if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", word)}
    known = {*Reason, *RejectionReason, *event_rows(), *OTHERS, *ANSWERS}
    reasons = several - known | ONE_WORD | {Reason.STEP_MISCONFIGURED}
    assert reasons >= {"TopicMissing", "MemberFenced", "NoBridge", "LeaseRefused", "UpdateUnreadable", "StepFailing"}
    assert sorted(reasons - OF_STREAMS) == []


def test_no_row_names_a_reason_that_the_code_lacks() -> None:
    assert sorted(OF_STREAMS - WORDS) == []


@pytest.mark.parametrize("row", [row for each in ROWS.values() for row in each], ids=lambda row: row[0])
def test_every_row_says_what_it_means_what_to_look_at_and_what_ends_it(row: list[str]) -> None:
    reason, meaning, look, ends = row
    well = reason in ("Ready", "Consuming", "Succeeded")
    assert meaning.endswith(".") and look and (ends.endswith(".") or well)


def test_every_event_is_explained() -> None:
    source = "".join(path.read_text() for path in (ROOT / "controller").rglob("*.py"))
    reasons = {*re.findall(r"(?<!\[)\"(?:Normal|Warning)\",\s*\"(\w+)\"", source), *update_events.LINES}
    assert reasons >= {"RecordsWaiting", "OffsetsIgnored", "WaitsForCall", "RequestRefused", "Cancelled", "Resumed"}
    assert sorted(reasons ^ event_rows()) == []


def exported() -> list[Metric]:
    return [metric for metric in REGISTRY.collect() if metric.name.startswith("enrichment_")]


def test_metrics_that_are_named_exist() -> None:
    ends = {"counter": ("_total",), "histogram": ("", "_bucket"), "gauge": ("",)}
    names = {metric.name + end for metric in exported() for end in ends[metric.type]}
    named = re.findall(r"\b(enrichment_\w+)", README.read_text() + TEXT)
    assert named
    assert [name for name in named if name not in names] == []


def test_every_metric_is_explained() -> None:
    table = TEXT.partition("\n## Metrics\n")[2].partition("\n### ")[0]
    named = {f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in exported()}
    assert sorted(named - set(re.findall(r"`(enrichment_\w+)`", table))) == []


def test_the_alerts_are_rules() -> None:
    (text,) = re.findall(r"```yaml\n(groups:.*?)```", TEXT, re.DOTALL)
    (group,) = yaml.safe_load(text)["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names) >= 10
    for rule in group["rules"]:
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert re.fullmatch(r"\d+m", rule.get("for", "1m"))
