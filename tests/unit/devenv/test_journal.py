"""The checker finds each way of breaking a guarantee, and nothing in a history that is good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from devenv.journal import Call, Expectations, Rule, asked_delay, check, read_calls

START = 1_795_000_000_000_000_000
SECOND = 1_000_000_000


class History:
    """Calls one after the other, a tenth of a second each; `during` lets one begin before its forerunner's end."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.record = 0
        self.time = START

    def call(self, step: str, sequence: int, user: str = "ana", **changes: Any) -> Call:
        self.record += 2
        self.time += SECOND // 10
        number = self.record
        source = changes.pop("source", "topic/0")
        ids = {"userId": f"u-{user}-{sequence}", "roleId": f"r-{user}-{sequence}"}
        needs = {"profile": [], "permissions": ["userId"], "resources": ["userId", "roleId"]}[step]
        returns = {"profile": ["userId"], "permissions": ["roleId"], "resources": []}[step]
        call = Call(
            number=number,
            time_ns=self.time,
            step=step,
            stream="user-updates",
            user=user,
            sequence=sequence,
            source=source,
            key=f"{source}/{user}/{sequence}/{step}",
            body={name: ids[name] for name in needs},
            end=number + 1,
            end_time_ns=self.time + SECOND // 20,
            status=200,
            answer={name: ids[name] for name in returns},
            applied=True,
        )
        self.calls.append(replace(call, **changes))
        return self.calls[-1]

    def busy(self, step: str, sequence: int, user: str = "ana", **changes: Any) -> Call:
        return self.call(step, sequence, user, **{"status": 503, "answer": {}, "applied": False, **changes})

    def update(self, sequence: int, user: str = "ana", **changes: Any) -> None:
        for step in ("profile", "permissions", "resources"):
            self.call(step, sequence, user, **changes)

    def rules(self, **expected: Any) -> set[Rule]:
        return {violation.rule for violation in check(self.calls, Expectations(**expected))}


@pytest.fixture
def history() -> History:
    return History()


def test_a_good_history_breaks_nothing(history: History) -> None:
    """Two users interleaved, a busy answer, a failure, a cut-off call whose repeat was answered from memory."""
    history.update(1)
    history.busy("profile", 1, "bob", retry_after="2")
    history.call("profile", 2)
    history.call("permissions", 2, status=500, answer={}, applied=False)
    history.call("permissions", 2, status=None, answer=None, gone=True)
    history.call("permissions", 2, applied=False)
    history.time += 2 * SECOND
    history.update(1, "bob")
    history.call("resources", 2)
    history.update(1, "ana", source="topic/1")
    history.update(9, "ana", source="manual")
    history.update(3, "ana", source="manual")
    finished = [("ana", 1), ("ana", 2), ("bob", 1), ("ana", 9), ("ana", 3)]
    assert check(history.calls, Expectations(finished=finished, only=finished)) == []


def test_overlap_of_two_updates(history: History) -> None:
    history.call("profile", 1, end=100)
    history.call("profile", 2)
    assert Rule.OVERLAP in history.rules()


def test_overlap_of_two_steps(history: History) -> None:
    history.call("profile", 1, end=None, end_time_ns=None)
    history.call("permissions", 1)
    assert Rule.OVERLAP in history.rules()


def test_a_repeat_may_begin_before_the_cut_off_call_is_noticed(history: History) -> None:
    history.call("profile", 1, end=5, gone=True)
    history.call("profile", 1, applied=False)
    assert history.rules() == set()


def test_calls_of_two_users_may_overlap(history: History) -> None:
    history.call("profile", 1, end=100)
    history.call("profile", 1, "bob")
    assert history.rules() == set()


def test_sequence_out_of_order(history: History) -> None:
    history.update(2)
    history.update(1)
    assert history.rules() == {Rule.SEQUENCE}


def test_return_to_an_update_after_one_of_another_source(history: History) -> None:
    history.call("profile", 1)
    history.update(1, source="topic/1")
    history.call("permissions", 1)
    history.call("resources", 1)
    assert history.rules() == {Rule.SEQUENCE}


def test_an_update_of_which_nothing_is_recorded_may_be_passed_by_one_of_another_source_after_a_crash(
    history: History,
) -> None:
    cut = history.call("profile", 2, status=None, answer=None, applied=False, gone=True)
    history.update(9, source="manual")
    history.update(2)
    assert history.rules(crashes=[cut.time_ns + 1]) == set()
    assert history.rules(crashes=[cut.time_ns - 1]) == {Rule.SEQUENCE}
    assert history.rules() == {Rule.SEQUENCE}


def test_an_update_with_a_finished_step_is_not_passed_by_though_its_second_was_cut_off(history: History) -> None:
    history.call("profile", 2)
    cut = history.call("permissions", 2, status=None, answer=None, applied=False, gone=True)
    history.update(9, source="manual")
    history.call("permissions", 2), history.call("resources", 2)
    assert history.rules(crashes=[cut.time_ns + 1]) == {Rule.SEQUENCE}


def test_a_step_before_its_forerunner(history: History) -> None:
    history.call("profile", 1)
    history.call("resources", 1, body={"userId": "u-ana-1"})
    assert history.rules() == {Rule.STEP_ORDER}


def test_a_step_after_its_forerunner_failed(history: History) -> None:
    history.call("profile", 1, status=500, answer={})
    history.call("permissions", 1, body={})
    assert history.rules() == {Rule.STEP_ORDER}


def test_a_step_again_after_the_next_one(history: History) -> None:
    history.call("profile", 1)
    cut = history.call("permissions", 1)
    history.call("profile", 1, applied=False)
    assert history.rules() == {Rule.STEP_ORDER, Rule.REPEATED}
    assert history.rules(crashes=[cut.time_ns]) == {Rule.STEP_ORDER}
    assert history.rules(crashes=[cut.time_ns], coalesced=True) == set()


def test_a_step_again_though_it_succeeded(history: History) -> None:
    first = history.call("profile", 1)
    history.call("profile", 1, applied=False)
    assert first.end_time_ns is not None
    assert history.rules() == {Rule.REPEATED}
    assert history.rules(crashes=[first.end_time_ns + SECOND]) == set()
    assert history.rules(crashes=[first.end_time_ns + 3 * SECOND]) == {Rule.REPEATED}
    assert history.rules(crashes=[first.end_time_ns - 1]) == {Rule.REPEATED}
    assert history.rules(lossy=True) == set()


def test_what_is_recorded_decides_which_answer_may_be_asked_for_again(history: History) -> None:
    first = history.call("profile", 1)
    history.time += 5 * SECOND
    again = history.call("profile", 1, applied=False)
    between = {"crashes": [first.time_ns + 3 * SECOND]}
    assert first.key and first.end_time_ns and again.end_time_ns
    assert history.rules(**between) == {Rule.REPEATED}, "by the time that had passed"
    assert history.rules(**between, recorded={first.key: again.end_time_ns}) == set()
    assert history.rules(**between, recorded={}) == set()
    assert history.rules(**between, recorded={first.key: first.end_time_ns + 1}) == {Rule.REPEATED}
    for crashes in ([], [first.time_ns - 1], [again.time_ns + 1]):
        assert history.rules(crashes=crashes, recorded={first.key: again.end_time_ns}) == {Rule.REPEATED}


def test_a_step_done_twice(history: History) -> None:
    history.call("profile", 1, gone=True)
    history.call("profile", 1)
    assert history.rules() == {Rule.APPLIED_TWICE}
    assert history.rules(rerun=[("ana", 1)]) == set()


def test_a_repeat_with_another_key(history: History) -> None:
    history.call("profile", 1, status=500, answer={}, applied=False)
    history.call("profile", 1, key="another")
    assert history.rules() == {Rule.KEY_CHANGED}
    assert history.rules(rerun=[("ana", 1)]) == set()


@pytest.mark.parametrize(
    "change", [{"user": "bob"}, {"sequence": 2}, {"step": "permissions", "body": {"userId": "u-ana-1"}}]
)
def test_a_key_for_two(history: History, change: dict[str, Any]) -> None:
    history.call("profile", 1, key="same")
    history.call(**{"step": "profile", "sequence": 1, "key": "same", **change})
    assert history.rules() == {Rule.KEY_SHARED}


def test_no_key(history: History) -> None:
    history.call("profile", 1, key=None)
    assert history.rules() == {Rule.KEY_SHARED}


@pytest.mark.parametrize(
    ("step", "name"), [("permissions", "userId"), ("resources", "userId"), ("resources", "roleId")]
)
def test_an_id_that_was_not_answered(history: History, step: str, name: str) -> None:
    history.update(1)
    index = ["profile", "permissions", "resources"].index(step)
    history.calls[index] = replace(history.calls[index], body={**history.calls[index].body, name: "u-bob-1"})
    assert history.rules() == {Rule.WRONG_ID}


def test_a_call_before_the_asked_time(history: History) -> None:
    history.busy("profile", 1, retry_after="2")
    history.time += SECOND
    history.call("profile", 1)
    assert history.rules() == {Rule.TOO_EARLY}


def test_a_call_before_the_default_delay(history: History) -> None:
    history.busy("profile", 1, status=200, answer={"status": "NOT_READY"})
    history.time += 2 * SECOND
    history.call("profile", 1)
    assert history.rules() == {Rule.TOO_EARLY}
    assert history.rules(busy_delay=2.0) == set()


def test_a_busy_answer_that_a_crash_kept_from_being_recorded(history: History) -> None:
    busy = history.busy("profile", 1)
    history.call("profile", 1)
    assert busy.end_time_ns is not None
    assert history.rules(crashes=[busy.end_time_ns + SECOND // 100]) == set()


def test_an_update_that_was_not_finished(history: History) -> None:
    history.call("profile", 1)
    history.call("permissions", 1)
    history.call("resources", 1, status=500)
    assert history.rules(finished=[("ana", 1)]) == {Rule.UNFINISHED}
    assert history.rules(finished=[("ana", 1), ("nobody", 7)]) == {Rule.UNFINISHED}


def test_a_long_answer_keeps_back_what_it_owes_but_the_last_step_owes_nothing(history: History) -> None:
    history.call("profile", 1)
    history.call("permissions", 1)
    history.call("resources", 1, answer={"bytes": 1 << 20})
    assert history.rules(finished=[("ana", 1)]) == set()
    history.call("profile", 2, answer={"bytes": 1 << 20})
    history.call("permissions", 2)
    assert Rule.STEP_ORDER in history.rules()


def test_an_update_that_nobody_made(history: History) -> None:
    history.update(1)
    history.update(2)
    assert history.rules(finished=[("ana", 1)], only=[("ana", 1)]) == {Rule.UNEXPECTED}


def test_a_frozen_controller_is_forgiven_one_call_of_a_user(history: History) -> None:
    """It thawed between check and send, while its successor was two updates ahead."""
    history.update(1)
    frozen = history.time
    history.time += 15 * SECOND
    history.update(2)
    thawed = history.time + 1
    stray = history.call("resources", 1, applied=False, end=100)
    history.update(3)
    assert history.rules() == {Rule.SEQUENCE, Rule.OVERLAP, Rule.REPEATED}
    assert history.rules(freezes=[(frozen, thawed)]) == set()
    assert Rule.OVERLAP in history.rules(freezes=[(frozen, stray.time_ns + 1)]), "it was frozen then"
    history.call("resources", 2, applied=False)
    assert Rule.REPEATED in history.rules(freezes=[(frozen, thawed)])
    assert history.rules(freezes=[(frozen, thawed), (frozen, thawed)]) == set()


def test_a_call_in_flight_as_its_controller_froze_is_forgiven(history: History) -> None:
    """It was answered unheard and hung on while the successor repeated it, and went on."""
    cut = history.call("profile", 1, end=100, end_time_ns=START + 60 * SECOND)
    history.time += 15 * SECOND
    history.call("profile", 1, applied=False)
    history.call("permissions", 1)
    assert history.rules() == {Rule.OVERLAP, Rule.REPEATED}
    assert history.rules(freezes=[(cut.time_ns + 1, history.time + 5 * SECOND)]) == set()
    another = (cut.time_ns - 8 * SECOND, history.time + 1)
    assert history.rules(freezes=[another]) == history.rules(), "the successor's call, not the frozen one's"


def test_a_message_names_the_calls(history: History) -> None:
    history.call("profile", 1, end=100)
    history.call("profile", 2)
    [violation] = check(history.calls)
    assert str(violation) == (
        "Overlap: call 4 (profile of ana #2 of user-updates (topic/0)) began while call 2 "
        "(profile of ana #1 of user-updates (topic/0)) was running"
    )


def asked(history: History, text: str | None) -> float:
    return asked_delay(history.busy("profile", 1, retry_after=text), 5.0)


@pytest.mark.parametrize(
    ("text", "want"),
    [("7", 7.0), ("0", 1.0), ("1.5", 1.5), ("9999", 300.0), (None, 5.0), ("", 5.0), ("-4", 5.0), ("soon", 5.0)],
)
def test_the_time_that_was_asked_for(history: History, text: str | None, want: float) -> None:
    assert asked(history, text) == want


def test_a_date_that_was_asked_for(history: History) -> None:
    date = datetime.fromtimestamp(START / 1e9, UTC) + timedelta(seconds=20)
    assert 18.0 <= asked(history, format_datetime(date, usegmt=True)) <= 20.0


BEGIN = {
    "kind": "begin",
    "step": "profile",
    "stream": "s",
    "user": "ana",
    "sequence": 1,
    "source": "topic/0",
    "key": "k",
    "body": {"user": "ana", "profile": "dev"},
}


def numbered(*records: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"n": number, "time": START + number, **record} for number, record in enumerate(records, start=1)]


def end(call: int, **fields: Any) -> dict[str, Any]:
    return {
        "kind": "end",
        "call": call,
        "status": 200,
        "answer": {"userId": "u"},
        "gone": False,
        "applied": None,
        **fields,
    }


@pytest.mark.parametrize(
    ("records", "want"),
    [
        ([BEGIN], {"end": None, "status": None, "gone": False}),
        ([BEGIN, end(1, applied={"userId": "u"})], {"end": 2, "status": 200, "applied": True, "succeeded": True}),
        ([BEGIN, end(1, status=None, gone=True)], {"end": 2, "status": None, "gone": True, "succeeded": False}),
        ([BEGIN, {"kind": "gone", "call": 1}, end(1, gone=True)], {"end": 2, "gone": True}),
        ([BEGIN, {"kind": "start"}], {"end": 2, "gone": True, "succeeded": False}),
        ([BEGIN, end(1), {"kind": "start"}], {"end": 2, "gone": False}),
        ([BEGIN, end(77)], {"end": None}),
        ([BEGIN, end(1, answer={"userId": 7})], {"succeeded": False}),
        ([{**BEGIN, "step": "resources"}, end(1, answer={})], {"succeeded": True}),
        ([BEGIN, end(1, answer={"userId": "u", "bytes": 65537})], {"succeeded": False}),
        ([{**BEGIN, "step": "resources"}, end(1, answer={"bytes": 65537})], {"succeeded": True}),
        ([BEGIN, end(1, answer={"status": "NOT_READY"})], {"busy": True, "succeeded": False}),
    ],
)
def test_calls_are_read_from_records(records: list[dict[str, Any]], want: dict[str, Any]) -> None:
    [call] = read_calls(numbered(*records))
    assert {name: getattr(call, name) for name in want} == want


BREAKS: dict[Rule, Callable[[History], Any]] = {
    Rule.OVERLAP: lambda history: history.call("profile", 5, end=None),
    Rule.SEQUENCE: lambda history: history.update(0),
}


@pytest.mark.parametrize("rule", BREAKS, ids=str)
def test_one_broken_user_among_many_is_found(history: History, rule: Rule) -> None:
    for user in ("bob", "cyd", "dan"):
        history.update(1, user)
    history.update(1)
    BREAKS[rule](history)
    history.update(6)
    assert rule in history.rules()
