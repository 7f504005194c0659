"""Where reading begins, and what of it is written to the stream's status."""

from __future__ import annotations

from typing import Any

import pytest

from controller.bridge.positions import (
    MAX_ENTRIES,
    Entry,
    Overtaken,
    Start,
    WentBack,
    check_known,
    check_room,
    first_entries,
    moved,
    needs_commits,
    starts,
    with_backlog,
    with_entries,
    with_first_entries,
)
from controller.kafka import KafkaError, Topic, Watermarks
from controller.reconciler.retention import gone_ids

TOPIC = Topic("events", "new", 2)
THERE = {0: Watermarks(3, 10)}


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
    after = with_entries(before, "new", [Entry("events", "new", 0, 5, committed=4, lag=1)])
    assert after["partitions"] == [
        *before["partitions"],
        {"topic": "events", "topicId": "new", "partition": 0, "position": 5, "committed": 4, "lag": 1},
    ]


def test_what_is_not_known_leaves_what_was() -> None:
    before = with_entries({}, "new", [Entry("events", "new", 0, 5, committed=4, lag=1)])
    (entry,) = with_entries(before, "new", [Entry("events", "new", 0, 6)])["partitions"]
    assert (entry["position"], entry["committed"]) == (6, 4)


@pytest.mark.parametrize("known", [{}, status(("new", 0, 4)), status(("old", 0, 9))])
def test_a_status_that_went_back_is_noticed(known: dict[str, Any]) -> None:
    with pytest.raises(WentBack):
        check_known(known, "new", {0: 5}, {0: 6})
    check_known(status(("new", 0, 5)), "new", {0: 5}, {0: 6})


def test_a_status_that_knows_more_is_noticed() -> None:
    """A late write of the partition's owner before: below its position updates may be collected by now."""
    with pytest.raises(Overtaken):
        check_known(status(("new", 0, 7)), "new", {}, {0: 6})
    check_known(status(("new", 0, 6), ("old", 0, 9)), "new", {}, {0: 6, 1: 0})


def test_the_first_positions_are_those_of_all_partitions() -> None:
    """One by one they would not do: the first one written makes the other partitions' commits count no more."""
    ranges = {0: Watermarks(3, 10), 1: Watermarks(0, 8)}
    entries = first_entries(TOPIC, starts({}, TOPIC, ranges, {0: 1, 1: 6}, "earliest"))
    first = with_first_entries({}, "new", entries)
    assert [(entry["partition"], entry["position"]) for entry in first["partitions"]] == [(0, 1), (1, 6)]
    assert starts(first, TOPIC, ranges, {}, "earliest") == {0: Start(3, expired=(1, 2)), 1: Start(6)}
    faster = status(("new", 0, 9))
    assert with_first_entries(faster, "new", entries) == faster


def made_again(status: dict[str, Any], topic_id: str, partitions: int, *, certain: bool = False) -> dict[str, Any]:
    """The topic has that id now, and each of its partitions its entry."""
    entries = [Entry("events", topic_id, number, 1) for number in range(partitions)]
    return with_entries(status, topic_id, entries, certain=certain)


def listed(status: dict[str, Any]) -> dict[str, list[int]]:
    """Partitions that are listed, by topic id."""
    found: dict[str, list[int]] = {}
    for entry in status["partitions"]:
        found.setdefault(entry["topicId"], []).append(entry["partition"])
    return found


def test_former_ids_leave_when_the_list_is_full_and_no_earlier() -> None:
    """A list that only grows is refused one day, and with it every position and condition."""
    known: dict[str, Any] = {}
    for number in range(12):
        known = made_again(known, f"id{number}", 300)
        there = listed(known)
        assert len(known["partitions"]) <= MAX_ENTRIES
        assert there[f"id{number}"] == list(range(300))
        assert number == 0 or there[f"id{number - 1}"] == list(range(300))
        assert number > 9 or all(len(there[f"id{former}"]) == 300 for former in range(number))
        # The group's commit is of an id that is no more: read for the one of today it would skip what is in it.
        assert not needs_commits(known)
        assert starts(known, Topic("events", f"id{number + 1}", 300), THERE, {0: 5}, "latest") == {0: Start(3)}
    # One entry of each id stays for longest: without any the controller does not know that the id is gone.
    assert [len(numbers) for numbers in listed(known).values()][:2] == [1, 1]


def test_the_id_before_stays_however_many_its_partitions() -> None:
    """Of two ids a broker that is behind the times names the wrong one."""
    known = made_again(made_again(made_again({}, "a", 400), "b", 1800), "c", 1800)
    assert {topic_id: len(numbers) for topic_id, numbers in listed(known).items()} == {"b": 1800, "c": 1800}


def test_a_topic_that_does_not_fit_is_told_of() -> None:
    known = made_again(made_again({}, "a", 900), "b", 1800)
    check_room(known, Topic("events", "b", 2100))
    check_room(known, Topic("events", "c", 1200))
    for topic in (Topic("events", "b", 2101), Topic("events", "c", 1201), Topic("events", "b", MAX_ENTRIES + 1)):
        with pytest.raises(KafkaError) as error:
            check_room(known, topic)
        assert error.value.reason == "TooManyPartitions"
    check_room({}, Topic("events", "a", MAX_ENTRIES))


def test_former_ids_are_gone_when_it_is_certain() -> None:
    known = made_again(made_again(made_again({}, "a", 2), "b", 2), "c", 2)
    assert gone_ids(known) == set()
    known = made_again(known, "c", 2, certain=True)
    assert gone_ids(known) == {"a", "b"}
    # It stays so for whoever is not certain yet, a bridge that begins.
    assert gone_ids(made_again(known, "c", 2)) == {"a", "b"}
    assert gone_ids(made_again(known, "d", 2)) == {"a", "b"}


def test_a_bridge_that_is_behind_the_times_never_says_that_the_present_topic_is_gone() -> None:
    known = made_again(made_again({}, "a", 2), "b", 2, certain=True)
    late = made_again(known, "a", 3, certain=True)
    assert gone_ids(late) == set()
    assert gone_ids(made_again(late, "b", 2, certain=True)) == {"a"}


def test_what_was_wrongly_said_to_be_gone_is_taken_back_by_whoever_sees_it() -> None:
    """Nobody had read of the old one before, so that it seems to be the newer."""
    known = made_again(made_again({}, "new", 3), "old", 1, certain=True)
    assert gone_ids(known) == {"new"}
    known = with_entries(known, "new", [Entry("events", "new", 0, 1)])
    assert gone_ids(known) == set()
    assert not any("gone" in entry for entry in known["partitions"] if entry["topicId"] == "new")


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
    known = with_entries(status(("old", 0, 1)), "new", [Entry("events", "new", 0, 6, committed=4)])
    assert moved(known, TOPIC, {} if commit is None else {0: commit}) == told


def test_before_the_first_commit_was_accepted_any_lower_one_is_right() -> None:
    known = with_entries({}, "new", [Entry("events", "new", 0, 6)])
    assert moved(known, TOPIC, {0: 2}) == []
    assert moved(known, TOPIC, {0: 7}) == ["partition 0 at 7, not 6"]


def test_what_waits_in_backlogs_is_the_sum_over_the_partitions_of_the_topic() -> None:
    status = with_entries({}, "old", [Entry("events", "old", 0, 5, backlog=100)])
    status = with_entries(status, "new", [Entry("events", "new", 0, 5, backlog=7), Entry("events", "new", 1, 5)])
    assert with_backlog(status, "new")["backlog"] == {"records": 7}
    status = with_entries(status, "new", [Entry("events", "new", 0, 5, backlog=0)])
    assert with_backlog(status, "new")["backlog"] == {"records": 0}
