"""Where reading begins, and what of it is written to the stream's status."""

from __future__ import annotations

from typing import Any

import pytest

from controller.bridge.positions import (
    Entry,
    Start,
    WentBack,
    check_not_back,
    first_entries,
    moved,
    needs_commits,
    starts,
    with_entries,
    with_first_entries,
)
from controller.kafka import Range, Topic

TOPIC = Topic("events", "new", 2)
THERE = {0: Range(3, 10)}


def status(*entries: tuple[str, int, int]) -> dict[str, Any]:
    return {"partitions": [{"topicId": t, "partition": p, "position": position} for t, p, position in entries]}


CASES = [
    ("the status is the authority", status(("new", 0, 7)), {0: 5}, "latest", Start(7)),
    ("another id of the topic: from the first", status(("old", 0, 7)), {0: 5}, "latest", Start(3)),
    ("another partition: from the first", status(("new", 1, 7)), {0: 5}, "latest", Start(3)),
    ("nothing known: the commit", {}, {0: 5}, "latest", Start(5)),
    ("nothing known, no commit: earliest", {}, {}, "earliest", Start(3)),
    ("nothing known, no commit: latest", {}, {}, "latest", Start(10)),
    ("removed meanwhile", status(("new", 0, 1)), {}, "earliest", Start(3, expired=(1, 2))),
    ("a commit whose records are gone", {}, {0: 0}, "earliest", Start(3, expired=(0, 2))),
    ("cut off", status(("new", 0, 12)), {}, "earliest", Start(12)),
]


@pytest.mark.parametrize(
    ("known", "committed", "reset", "want"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_where_reading_begins(known: dict[str, Any], committed: dict[int, int], reset: str, want: Start) -> None:
    assert starts(known, TOPIC, THERE, committed, reset) == {0: want}


def test_commits_are_asked_for_only_where_the_status_knows_nothing() -> None:
    assert needs_commits({})
    assert not needs_commits(status(("old", 5, 0)))


def test_entries_of_others_are_kept() -> None:
    before = status(("old", 0, 9), ("new", 1, 4))
    after = with_entries(before, [Entry("events", "new", 0, 5, committed=4, lag=1)])
    assert after["partitions"] == [
        *before["partitions"],
        {"topic": "events", "topicId": "new", "partition": 0, "position": 5, "committed": 4, "lag": 1},
    ]


def test_what_is_not_known_leaves_what_was() -> None:
    before = with_entries({}, [Entry("events", "new", 0, 5, committed=4, lag=1)])
    (entry,) = with_entries(before, [Entry("events", "new", 0, 6)])["partitions"]
    assert (entry["position"], entry["committed"]) == (6, 4)


@pytest.mark.parametrize("known", [{}, status(("new", 0, 4)), status(("old", 0, 9))])
def test_a_status_that_went_back_is_noticed(known: dict[str, Any]) -> None:
    with pytest.raises(WentBack):
        check_not_back(known, "new", {0: 5})
    check_not_back(status(("new", 0, 5)), "new", {0: 5})


def test_the_first_positions_are_those_of_all_partitions() -> None:
    """One by one they would not do: the first one written makes the other partitions' commits count no more."""
    ranges = {0: Range(3, 10), 1: Range(0, 8)}
    entries = first_entries(TOPIC, starts({}, TOPIC, ranges, {0: 1, 1: 6}, "earliest"))
    first = with_first_entries({}, entries)
    assert [(entry["partition"], entry["position"]) for entry in first["partitions"]] == [(0, 1), (1, 6)]
    assert starts(first, TOPIC, ranges, {}, "earliest") == {0: Start(3, expired=(1, 2)), 1: Start(6)}
    faster = status(("new", 0, 9))
    assert with_first_entries(faster, entries) == faster


@pytest.mark.parametrize(
    ("commit", "told"),
    [
        (4, []),
        (6, []),
        (3, ["partition 0 at 3, not 4"]),
        (7, ["partition 0 at 7, not 4"]),
        (None, []),
    ],
    ids=["as written", "accepted since", "set back", "set forward", "gone, as an expired group's"],
)
def test_commits_that_somebody_else_made(commit: int | None, told: list[str]) -> None:
    known = with_entries(status(("old", 0, 1)), [Entry("events", "new", 0, 6, committed=4)])
    assert moved(known, TOPIC, {} if commit is None else {0: commit}) == told


def test_before_the_first_commit_was_accepted_any_lower_one_is_right() -> None:
    known = with_entries({}, [Entry("events", "new", 0, 6)])
    assert moved(known, TOPIC, {0: 2}) == []
    assert moved(known, TOPIC, {0: 7}) == ["partition 0 at 7, not 6"]
