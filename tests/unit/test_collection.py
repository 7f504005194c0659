"""Which finished updates are due, on a virtual clock."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.engine.collection import (
    CONCURRENCY,
    DELETING_SECONDS,
    MIN_AGE,
    QUIET_SECONDS,
    Finished,
    at_a_time,
    due,
    gone_ids,
    quiet_seconds,
)
from controller.streams import Retention
from controller.updates import Phase
from tests.builders import OTHER_TOPIC_ID, TOPIC_ID, at

S, F, K, C = Phase.SUCCEEDED, Phase.FAILED, Phase.SKIPPED, Phase.CANCELLED


def finished(*ends: tuple[Phase, float]) -> dict[str, Finished]:
    """Updates named after their place, with phase and end in seconds."""
    made = [
        Finished(str(offset), f"uid-{offset}", 100, "ana", phase, at(end), (TOPIC_ID, 0), offset)
        for offset, (phase, end) in enumerate(ends)
    ]
    return {each.name: each for each in made}


def names(found: list[Finished]) -> list[str]:
    return [each.name for each in found]


def test_by_age() -> None:
    kept = finished((S, 0), (S, 50), (F, 0), (K, 0), (C, 0))
    retention = Retention(succeeded_seconds=100, failed_seconds=200)
    assert names(due(kept, retention, at(99))) == []
    assert names(due(kept, retention, at(100))) == ["0"]
    assert names(due(kept, retention, at(150))) == ["0", "1"]
    assert names(due(kept, retention, at(200))) == ["0", "1", "2", "3", "4"]


def test_nothing_goes_within_a_minute() -> None:
    kept = finished((S, 0), (F, 0))
    retention = Retention(succeeded_seconds=0, failed_seconds=0, max_finished=0)
    assert due(kept, retention, at(MIN_AGE - 0.001)) == []
    assert names(due(kept, retention, at(MIN_AGE))) == ["0", "1"]


def test_a_surplus_goes_by_phase_then_by_age() -> None:
    kept = finished((F, 0), (C, 1), (K, 2), (S, 5), (S, 3), (S, 4))
    for most, want in [(6, []), (5, ["4"]), (3, ["4", "5", "3"]), (1, ["4", "5", "3", "1", "2"])]:
        assert names(due(kept, Retention(max_finished=most), at(100))) == want


def test_the_aged_count_towards_a_surplus() -> None:
    kept = finished((F, 0), (S, 0), (S, 90))
    assert names(due(kept, Retention(succeeded_seconds=100, max_finished=2), at(150))) == ["1"]
    assert names(due(kept, Retention(succeeded_seconds=100, max_finished=1), at(150))) == ["1", "2"]


def test_a_surplus_too_young_to_go_stays_whole() -> None:
    kept = finished((F, 0), (S, 95), (S, 96))
    assert names(due(kept, Retention(max_finished=1), at(100))) == ["0"]


def test_what_is_not_settled_keeps_nothing_else_from_going() -> None:
    kept = finished((S, 0), (S, 1), (S, 2), (F, 0))
    settled = {"1", "2", "3"}
    found = due(kept, Retention(max_finished=3), at(100), lambda each: each.name in settled)
    assert names(found) == ["1"]
    found = due(kept, Retention(succeeded_seconds=0), at(100), lambda each: each.name in settled)
    assert names(found) == ["1", "2"]


def of_another_topic(kept: dict[str, Finished], *names: str) -> dict[str, Finished]:
    """These are of a topic id that was there before."""
    changed = {name: replace(kept[name], partition=(OTHER_TOPIC_ID, 0)) for name in names}
    return kept | changed


def test_what_is_of_a_topic_that_is_gone_goes_by_age() -> None:
    kept = of_another_topic(finished((S, 0), (S, 60), (F, 0)), "0", "1", "2")
    retention = Retention(succeeded_seconds=100, failed_seconds=200, max_finished=0)
    for seconds, want in [(99, []), (100, ["0"]), (160, ["0", "1"]), (200, ["0", "1", "2"])]:
        assert names(due(kept, retention, at(seconds), gone={OTHER_TOPIC_ID})) == want


def test_what_is_of_a_topic_that_is_gone_takes_no_others_place() -> None:
    """Those of yesterday's topic filled `maxFinished`, and so pushed out today's, what had failed too."""
    kept = of_another_topic(finished(*[(S, 0)] * 5, (F, 0), (S, 1), (S, 2)), *"01234")
    retention = Retention(max_finished=3)
    now_there = {"5", "6", "7"}
    assert names(due(kept, retention, at(100), lambda each: each.name in now_there)) == ["6", "7", "5"]
    assert due(kept, retention, at(100), lambda each: each.name in now_there, {OTHER_TOPIC_ID}) == []
    fewer = replace(retention, max_finished=2)
    assert names(due(kept, fewer, at(100), lambda each: each.name in now_there, {OTHER_TOPIC_ID})) == ["6"]


def test_a_topic_is_gone_when_all_its_entries_say_so() -> None:
    """One that is not listed may be listed in a moment."""
    entries = [("a", True), ("a", True), ("b", True), ("b", None), ("c", False)]
    status = {
        "partitions": [
            {"topicId": topic_id} | ({"gone": gone} if gone is not None else {}) for topic_id, gone in entries
        ]
    }
    assert gone_ids(status) == {"a"}
    assert gone_ids({}) == set()


def test_as_many_deletes_at_a_time_as_end_in_time() -> None:
    assert at_a_time(0, 0.7) == at_a_time(250, 0.005) == 1
    assert at_a_time(100, 0.7) == 35
    assert 100 * 0.7 / 35 <= DELETING_SECONDS
    assert at_a_time(500, 0.7) == CONCURRENCY


ENDS = st.lists(st.tuples(st.sampled_from([S, F, K, C]), st.integers(0, 300)), max_size=12)
RETENTIONS = st.builds(Retention, st.integers(0, 400), st.integers(0, 400), st.integers(0, 12))


@given(ENDS, RETENTIONS, st.integers(300, 400), st.floats(0, 1))
def test_while_it_is_quiet_nothing_becomes_due(
    ends: list[tuple[Phase, float]], retention: Retention, now: float, part: float
) -> None:
    kept = finished(*ends)
    if due(kept, retention, at(now)):
        return
    quiet = quiet_seconds(kept.values(), retention, at(now))
    assert 0 < quiet <= QUIET_SECONDS
    assert due(kept, retention, at(now + quiet * part * 0.999)) == []


def test_it_is_quiet_no_longer_than_it_must_be() -> None:
    retention = Retention(succeeded_seconds=100, max_finished=1)
    assert quiet_seconds(finished((S, 0)).values(), retention, at(90)) == 10
    assert quiet_seconds(finished((S, 0), (S, 1)).values(), retention, at(50)) == 10, "a surplus goes after a minute"
    assert quiet_seconds(finished((S, 80)).values(), retention, at(90)) == QUIET_SECONDS
