"""The sample downstream's rules: what is refused, what matches, how they are used up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from devenv.downstream_journal import JournalFile
from devenv.downstream_rules import ACTIONS, Rule, RuleBook, RuleError, Rules, read_rules

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("document", "want"),
    [
        (7, "the rules must be a list, or an object with the fields rules and latencySeconds"),
        ({"rule": []}, "field rule: unknown; known are rules and latencySeconds"),
        ({"latencySeconds": -1}, "field latencySeconds: must be a number of seconds, 0 or more"),
        ([7], "rule 1: must be an object"),
        ([{}], f"rule 1 (rule-1), field action: must be one of {', '.join(ACTIONS)}"),
        ([{"action": "explode"}], f"rule 1 (rule-1), field action: must be one of {', '.join(ACTIONS)}"),
        ([{"action": ["busy"]}], f"rule 1 (rule-1), field action: must be one of {', '.join(ACTIONS)}"),
        (
            [{"action": "hang"}, {"name": "b", "action": "busy", "count": 0}],
            "rule 2 (b), field count: must be a whole number, 1 or more",
        ),
        ([{"action": "busy", "count": True}], "rule 1 (rule-1), field count: must be a whole number, 1 or more"),
        (
            [{"action": "busy", "step": "role"}],
            "rule 1 (rule-1), field step: must be one of profile, permissions, resources",
        ),
        (
            [{"action": "busy", "status": 500}],
            "rule 1 (rule-1), field status: must be a status from 200 to 299 or 429 or 503",
        ),
        ([{"action": "busy", "user": ""}], "rule 1 (rule-1), field user: must be a text that is not empty"),
        ([{"action": "slow"}], "rule 1 (rule-1), field seconds: is missing, slow needs it"),
        (
            [{"action": "slow", "seconds": float("inf")}],
            "rule 1 (rule-1), field seconds: must be a number of seconds, 0 or more",
        ),
        (
            [{"action": "gzip", "bytes": 1}],
            "rule 1 (rule-1), field bytes: unknown for gzip; known are "
            "name, user, stream, step, sequence, count, forSeconds, applied",
        ),
        (
            [{"name": "a", "action": "gzip"}, {"name": "a", "action": "gzip"}],
            "rule 2 (a), field name: another rule has it already",
        ),
    ],
)
def test_a_wrong_rule_is_refused_by_rule_and_field(document: Any, want: str) -> None:
    with pytest.raises(RuleError) as error:
        read_rules(document)
    assert str(error.value) == want


def test_rules_can_be_read_again_from_what_they_show() -> None:
    document = [{"action": kind, **({"seconds": 1} if kind == "slow" else {})} for kind in ACTIONS]
    rules = read_rules({"latencySeconds": 0.5, "rules": document})
    assert read_rules(orjson.loads(orjson.dumps(rules.for_json()))) == rules


def book(*rules: dict[str, Any]) -> RuleBook:
    return RuleBook(read_rules(list(rules)))


def chosen(rule: Rule | None) -> str | None:
    return rule.name if rule else None


@pytest.mark.parametrize(
    ("match", "want"),
    [
        ({}, True),
        ({"user": "userid1"}, True),
        ({"user": "userid*"}, True),
        ({"user": "userid?"}, True),
        ({"user": "userid"}, False),
        ({"user": "USERID1"}, False),
        ({"step": "profile"}, True),
        ({"step": "resources"}, False),
        ({"stream": "user-*"}, True),
        ({"stream": "other"}, False),
        ({"sequence": 3}, True),
        ({"sequence": 4}, False),
    ],
)
def test_matching(match: dict[str, Any], want: bool) -> None:
    rule = book({"action": "busy", **match}).choose("user-updates", "userid1", "profile", 3, 0)
    assert (rule is not None) is want


def test_a_user_whose_name_is_a_glob_is_matched_exactly() -> None:
    assert book({"action": "busy", "user": "[a]"}).choose("s", "[a]", "profile", 1, 0) is not None


def test_a_count_is_used_up_by_user_and_step() -> None:
    rules = book({"name": "first", "action": "busy", "count": 2}, {"name": "then", "action": "fail", "count": 1})
    calls = [("ana", "profile")] * 4 + [("bob", "profile"), ("ana", "resources")]
    got = [chosen(rules.choose("s", user, step, 1, 0)) for user, step in calls]
    assert got == ["first", "first", "then", None, "first", "first"]
    assert rules.uses() == {"first": 4, "then": 1}


def test_seconds_run_from_the_first_use() -> None:
    rules = book({"name": "a", "action": "busy", "forSeconds": 2})
    times = [10, 11, 11.9, 12, 99]
    got = [chosen(rules.choose("s", "ana", "profile", 1, int(time * SECOND))) for time in times]
    assert got == ["a", "a", "a", None, None]


def test_no_rules() -> None:
    assert RuleBook(Rules()).choose("s", "ana", "profile", 1, 0) is None


def records(journal: JournalFile, after: int = 0) -> list[Any]:
    return [record["n"] for record in map(orjson.loads, b"".join(journal.read(after)).splitlines())]


def test_the_journal_numbers_its_records_through(tmp_path: Path) -> None:
    journal = JournalFile(tmp_path / "journal.jsonl")
    assert [journal.append("begin", {}) for _ in range(3)] == [1, 2, 3]
    assert records(journal) == [1, 2, 3]
    assert [records(journal, after) for after in (1, 3, 99)] == [[2, 3], [], []]
    journal.clear()
    assert journal.append("begin", {}) == 5
    journal.close()
    again = JournalFile(tmp_path / "journal.jsonl")
    assert [record["n"] for record in again.load()] == [4, 5]
    assert again.append("begin", {}) == 6
    assert records(again, 4) == [5, 6]
    again.close()


def test_a_line_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = JournalFile(path)
    journal.append("begin", {})
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"n":2,"ki')
    again = JournalFile(path)
    assert len(list(again.load())) == 1
    assert path.read_bytes() == whole
    assert again.append("begin", {}) == 2
    assert records(again) == [1, 2]
    again.close()
