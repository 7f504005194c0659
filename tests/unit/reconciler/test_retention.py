"""Which finished updates are due, on a virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.update_stream import Retention
from controller.api.user_update_status import FINISHED, Phase, Reason, Status
from controller.core.sharding import Shard
from controller.errors import Conflict, NotFound, Unavailable
from controller.reconciler.retention import (
    CONCURRENCY,
    DELETING_SECONDS,
    MIN_AGE,
    RECHECK_SECONDS,
    Collector,
    FinishedUpdate,
    at_a_time,
    due,
    gone_ids,
    idle_seconds,
)
from tests.support.builders import at, make_body, make_stream, make_update
from tests.support.records import OTHER_TOPIC_ID, TOPIC_ID

NO_REFUSALS: Any = SimpleNamespace(check=lambda update: None)
S, F, K, C = Phase.SUCCEEDED, Phase.FAILED, Phase.SKIPPED, Phase.CANCELLED


def finished(*ends: tuple[Phase, float]) -> dict[str, FinishedUpdate]:
    """Updates named by their position, each with its phase and the second at which it ended."""
    made = [
        FinishedUpdate(str(offset), f"uid-{offset}", 100, "ana", phase, at(end), (TOPIC_ID, 0), offset)
        for offset, (phase, end) in enumerate(ends)
    ]
    return {each.name: each for each in made}


def names(found: list[FinishedUpdate]) -> list[str]:
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


def test_what_may_not_be_deleted_keeps_nothing_else_from_going() -> None:
    kept = finished((S, 0), (S, 1), (S, 2), (F, 0))
    may_be_deleted = {"1", "2", "3"}
    found = due(kept, Retention(max_finished=3), at(100), lambda each: each.name in may_be_deleted)
    assert names(found) == ["1"]
    found = due(kept, Retention(succeeded_seconds=0), at(100), lambda each: each.name in may_be_deleted)
    assert names(found) == ["1", "2"]


def by_hand(kept: dict[str, FinishedUpdate], name: str, ttl: int | None = None) -> dict[str, FinishedUpdate]:
    return kept | {name: replace(kept[name], partition=None, ttl=ttl)}


def test_what_is_made_by_hand_stays_unless_it_says_for_how_long() -> None:
    """Such an update was deleted with the rest, and a tool that applied it again and again ran it again and again."""
    kept = by_hand(by_hand(by_hand(finished(*[(S, 0)] * 4), "0"), "1", 0), "2", 300)
    retention = Retention(succeeded_seconds=100, failed_seconds=100, max_finished=0)
    for seconds, want in [(0, ["1"]), (60, ["1", "3"]), (300, ["1", "2", "3"]), (10**9, ["1", "2", "3"])]:
        assert names(due(kept, retention, at(seconds))) == want


def test_how_long_it_is_quiet_beside_what_is_made_by_hand() -> None:
    retention = Retention(succeeded_seconds=0, max_finished=0)
    kept = finished((S, 0))
    assert idle_seconds(by_hand(kept, "0").values(), retention, at(1000)) == RECHECK_SECONDS
    assert idle_seconds(by_hand(kept, "0", 30).values(), retention, at(20)) == 10


def of_another_topic(kept: dict[str, FinishedUpdate], *names: str) -> dict[str, FinishedUpdate]:
    """Updates of an earlier topic id."""
    changed = {name: replace(kept[name], partition=(OTHER_TOPIC_ID, 0)) for name in names}
    return kept | changed


def test_what_is_of_a_topic_that_is_gone_goes_by_age() -> None:
    kept = of_another_topic(finished((S, 0), (S, 60), (F, 0)), "0", "1", "2")
    retention = Retention(succeeded_seconds=100, failed_seconds=200, max_finished=0)
    for seconds, want in [(99, []), (100, ["0"]), (160, ["0", "1"]), (200, ["0", "1", "2"])]:
        assert names(due(kept, retention, at(seconds), gone={OTHER_TOPIC_ID})) == want


def test_what_is_of_a_topic_that_is_gone_takes_no_others_place() -> None:
    """The updates of a former topic filled `maxFinished`, and pushed out those of the present one, failed ones too."""
    kept = of_another_topic(finished(*[(S, 0)] * 5, (F, 0), (S, 1), (S, 2)), *"01234")
    retention = Retention(max_finished=3)
    now_there = {"5", "6", "7"}
    assert names(due(kept, retention, at(100), lambda each: each.name in now_there)) == ["6", "7", "5"]
    assert due(kept, retention, at(100), lambda each: each.name in now_there, {OTHER_TOPIC_ID}) == []
    fewer = replace(retention, max_finished=2)
    assert names(due(kept, fewer, at(100), lambda each: each.name in now_there, {OTHER_TOPIC_ID})) == ["6"]


def test_a_topic_is_gone_when_all_its_entries_say_so() -> None:
    """A topic id that is not listed may be listed in a moment."""
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
    quiet = idle_seconds(kept.values(), retention, at(now))
    assert 0 < quiet <= RECHECK_SECONDS
    assert due(kept, retention, at(now + quiet * part * 0.999)) == []


def test_it_is_quiet_no_longer_than_it_must_be() -> None:
    retention = Retention(succeeded_seconds=100, max_finished=1)
    assert idle_seconds(finished((S, 0)).values(), retention, at(90)) == 10
    assert idle_seconds(finished((S, 0), (S, 1)).values(), retention, at(50)) == 10, "a surplus goes after a minute"
    assert idle_seconds(finished((S, 80)).values(), retention, at(90)) == RECHECK_SECONDS


async def test_where_some_are_made_by_hand_all_are_listed_anew_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update that stays for good was still counted, and remembered, after a person had deleted it."""

    class Server:
        items: ClassVar[list[dict[str, Any]]] = []

        async def pages(self, *_: Any, field_selector: str, **__: Any) -> AsyncIterator[Any]:
            yield SimpleNamespace(items=self.items if field_selector.endswith("Succeeded") else [])

    lease = SimpleNamespace(tenure=1)
    context = SimpleNamespace(
        cluster=Server(), stream=make_stream(), shard=Shard(), lease=lease, retention=Retention(), now=lambda: at(10)
    )
    collector = Collector(cast(Any, context), NO_REFUSALS)
    status = Status(phase=S, reason=Reason.SUCCEEDED, transition_time=at(0))
    gone, stays = (make_update(sequence=n, manual=True, status=status) for n in (1, 2))
    Server.items = [make_body(gone), make_body(stays)]
    assert await collector._choose([]) == []
    assert collector.counts[S] == 2
    limited = replace(stays, spec=replace(stays.spec, ttl_seconds_after_finished=5))
    Server.items = [make_body(limited)]
    assert await collector._choose([]) == [] and collector.counts[S] == 2
    monkeypatch.setattr("controller.reconciler.retention.LIST_SECONDS", 0.0)
    await collector._list() if collector._stale() else None
    assert collector.counts[S] == 1
    assert names(due(collector._finished, Retention(), at(10))) == [stays.name]


def collecting_from(server: object) -> Collector:
    """A collector at 10 s; the test says what its API server answers."""
    context = SimpleNamespace(
        cluster=server,
        stream=make_stream(),
        shard=Shard(),
        lease=SimpleNamespace(tenure=1),
        retention=Retention(),
        now=lambda: at(10),
    )
    return Collector(cast(Any, context), NO_REFUSALS)


async def test_a_doubt_lasts_until_all_are_listed() -> None:
    """A watch breaks when the API server is away: then the list failed, and a request to a finished update was lost."""

    answers: list[bool] = []
    away: list[bool] = []

    class Server:
        async def pages(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
            answers.append(not away)
            if away and away.pop():
                raise Unavailable("no answer")
            yield SimpleNamespace(items=[])

    collector = collecting_from(Server())
    await collector._choose([])
    collector.relist()
    away.append(True)
    for _ in range(3):
        await collector._choose([])
    all_phases = [True] * len(FINISHED)
    assert answers == [*all_phases, False, *all_phases]


async def test_one_that_is_to_go_at_once_does_not_wait_until_the_next_one_becomes_due() -> None:
    """It took up to twenty seconds more: updates of records stay for a minute at least, so none was looked for."""

    class Server:
        async def pages(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
            yield SimpleNamespace(items=[])

        async def get(self, *_: Any) -> dict[str, Any]:
            return {}

    collector = collecting_from(Server())
    assert await collector._choose([]) == []
    update = make_update(manual=True, status=Status(phase=S, reason=Reason.SUCCEEDED, transition_time=at(9)))
    collector.add(replace(update, spec=replace(update.spec, ttl_seconds_after_finished=0)))
    assert names(await collector._choose([])) == [update.name]


async def test_what_somebody_else_has_deleted_is_counted_no_more() -> None:
    """The counts of the stream contained it until another update came or went."""

    class Server:
        async def delete(self, *_: Any) -> None:
            raise Conflict("it has changed")

        async def get(self, *_: Any) -> None:
            raise NotFound("it is gone")

    collector = Collector(cast(Any, SimpleNamespace(cluster=Server(), stream=make_stream())), NO_REFUSALS)
    collector._listed = True
    status = Status(phase=S, reason=Reason.SUCCEEDED, transition_time=at(0))
    update = make_update(status=status)
    collector.add(update)
    assert collector.counts[S] == 1
    (each,) = collector._finished.values()
    await collector._delete(each)
    assert collector.counts[S] == 0
