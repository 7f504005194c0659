"""The checker of the chaos runs finds each way of breaking a guarantee, and nothing in a history that is good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from controller.api.offset_queue import OffsetQueue
from devenv.journal import Call
from tests.chaos.history import Disturbance, History, Sighting, SuspensionSeen
from tests.chaos.records import waiting_offsets
from tests.chaos.verdict import judge
from tests.support.histories import REFUSED, SECOND, START, good_history, name_of
from tests.support.records import TOPIC_ID

ORDER, WAITING, RECORDS, CHECKPOINTS, DELAYS, BOUNDED, RUN = (
    "1 order",
    "2 nobody waits for others",
    "3 nothing lost, nothing doubled",
    "4 checkpoints",
    "5 durable delays",
    "6 bounded",
    "the run itself",
)


def broken(history: History) -> dict[str, tuple[str, ...]]:
    return {verdict.guarantee: verdict.breaches for verdict in judge(history) if verdict.breaches}


def without(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return items[:index] + items[index + 1 :]


def with_update(history: History, offset: int, **changes: Any) -> History:
    """Changes of spec or status of one update."""
    updates = []
    for update in history.updates:
        if update["metadata"]["name"] == name_of(offset):
            update = {**update, **{part: {**update[part], **change} for part, change in changes.items()}}
        updates.append(update)
    return replace(history, updates=tuple(updates))


def with_rejected(history: History, **changes: Any) -> History:
    body = history.rejected[0]
    return replace(history, rejected=({**body, "spec": {**body["spec"], **changes}},))


def with_call(history: History, call: Call) -> History:
    return replace(history, calls=(*history.calls, call))


def repeated(history: History, index: int, *, after: float) -> History:
    """A further call of that step, so many seconds after its end."""
    call = history.calls[index]
    assert call.end_time_ns is not None
    begun = call.end_time_ns + int(after * SECOND)
    return with_call(
        history, replace(call, number=call.number + 1, end=call.number + 1, time_ns=begun, end_time_ns=begun + 1)
    )


def with_sightings(history: History, *sightings: Sighting) -> History:
    return replace(history, sightings=tuple(sorted((*history.sightings, *sightings), key=lambda seen: seen.time_ns)))


def seen(second: float, offset: int = 0, **changes: Any) -> Sighting:
    return Sighting(START + int(second * SECOND), name_of(offset), f"uid-{offset}", "ana", **changes)


def with_sample(history: History, **changes: Any) -> History:
    return replace(history, samples=(*history.samples, replace(history.samples[-1], **changes)))


def test_a_good_history_breaks_nothing() -> None:
    assert broken(good_history()) == {}


def lost_record(history: History) -> History:
    return replace(history, updates=without(history.updates, 0))


def made_twice(history: History) -> History:
    return with_sightings(history, replace(seen(90), uid="uid-other"))


def stranger(history: History) -> History:
    update = history.updates[0]
    name = {"name": name_of(77), "uid": "uid-77"}
    return replace(history, updates=(*history.updates, {**update, "metadata": name}))


def wrong_user(history: History) -> History:
    return with_update(history, 0, spec={"user": "bob"})


def wrong_field(history: History) -> History:
    return with_update(history, 0, spec={"permissions": "none"})


def wrong_source(history: History) -> History:
    return with_update(history, 0, spec={"source": {"partition": 0, "offset": 3}})


def failed_for_nothing(history: History) -> History:
    return with_update(history, 3, status={"phase": "Failed"})


def succeeded_though_refused(history: History) -> History:
    return with_update(history, REFUSED[1], status={"phase": "Succeeded"})


def never_finished(history: History) -> History:
    return with_update(history, 0, status={"phase": "Waiting"})


def hand_made_lost(history: History) -> History:
    return replace(history, updates=history.updates[:-1])


def not_shown(history: History) -> History:
    return replace(history, rejected=())


def wrong_reason(history: History) -> History:
    return with_rejected(history, reason="Tombstone")


def counted_twice(history: History) -> History:
    return with_rejected(history, count=2)


def good_record_rejected(history: History) -> History:
    source = {**history.rejected[0]["spec"]["source"], "offset": 1}
    return with_rejected(history, source=source)


def update_of_a_bad_record(history: History) -> History:
    update = history.updates[0]
    return replace(history, updates=(*history.updates, {**update, "metadata": {"name": name_of(2), "uid": "uid-2"}}))


def position_went_back(history: History) -> History:
    return with_sample(history, positions={(TOPIC_ID, 0): 4})


def position_forgotten(history: History) -> History:
    return with_sample(history, positions={})


def position_short_of_the_end(history: History) -> History:
    status = {"partitions": [{"topicId": TOPIC_ID, "partition": 0, "position": 4}]}
    return replace(history, stream={**history.stream, "status": status})


def position_ahead_of_updates(history: History) -> History:
    early = replace(history.samples[0], positions={(TOPIC_ID, 0): 1})
    return replace(history, samples=(early, *history.samples[1:]), sightings=history.sightings[20:])


def position_ahead_of_rejected(history: History) -> History:
    return replace(history, samples=(*history.samples[:1], replace(history.samples[1], rejected=())))


def kafka_lacks_a_record(history: History) -> History:
    return replace(history, records=without(history.records, 1))


def update_never_called(history: History) -> History:
    return replace(history, calls=history.calls[3:])


def update_called_that_is_none(history: History) -> History:
    last = history.calls[-1]
    return with_call(history, replace(last, number=900, end=901, sequence=77, key="ns/other/resources/0"))


def applied_twice(history: History) -> History:
    return repeated(history, 0, after=0.01)


def order_reversed(history: History) -> History:
    first, later = history.calls[0], history.calls[6]
    assert (first.user, later.user) == ("ana", "ana")
    calls = [replace(call, number=call.number + 1000) if call.sequence == 0 else call for call in history.calls]
    calls = [replace(call, end=call.number + 1) for call in calls]
    return replace(history, calls=tuple(calls))


def overlap(history: History) -> History:
    calls = [replace(call, end=call.number + 5) if call is history.calls[2] else call for call in history.calls]
    calls = [replace(call, user="ana") if call.user == "bob" else call for call in calls]
    return replace(history, calls=tuple(calls))


def step_left_out(history: History) -> History:
    return replace(history, calls=without(history.calls, 1))


def called_after_record_was_seen(history: History) -> History:
    """With a connection that was cut just then, the journal alone would let it pass."""
    history = repeated(history, 2, after=0.15)
    call = history.calls[-1]
    return replace(
        history,
        calls=(*history.calls[:-1], replace(call, applied=False)),
        disturbances=(Disturbance("cut", "controller-downstream", START, START + 60 * SECOND),),
    )


def repeated_for_nothing(history: History) -> History:
    """An answer that nobody had a reason to ask for again, before its record was seen."""
    history = repeated(history, 0, after=0.01)
    return replace(history, calls=(*history.calls[:-1], replace(history.calls[-1], applied=False)))


def another_key(history: History) -> History:
    history = repeated(history, 0, after=0.01)
    call = replace(history.calls[-1], key="ns/other/profile/0", applied=False)
    crash = Disturbance("kill", "controller", call.time_ns - 1, call.time_ns)
    return replace(history, calls=(*history.calls[:-1], call), disturbances=(crash,))


def called_after_completion(history: History) -> History:
    steps = [{"name": "profile", "completionTime": "2026-11-18T00:00:00.000000Z"}]
    return with_update(history, 0, status={"steps": steps})


def finished_comes_back(history: History) -> History:
    return with_sightings(history, seen(90, phase="Running", steps=("profile", "permissions", "resources")))


def record_of_a_step_lost(history: History) -> History:
    return with_sightings(history, seen(0.95, phase="Running", steps=()))


def called_before_next_attempt(history: History) -> History:
    begun = history.calls[0].time_ns
    waiting = replace(seen(0), time_ns=begun - SECOND // 20, phase="Waiting", next_attempt_ns=begun + SECOND)
    return with_sightings(history, waiting)


def called_before_busy_delay(history: History) -> History:
    call = history.calls[0]
    busy = replace(call, number=1, end=1, time_ns=START, end_time_ns=START + 1, status=503, answer={}, applied=False)
    return replace(history, calls=(busy, *history.calls))


def attempts_forgotten(history: History) -> History:
    return with_sightings(history, seen(0.1, attempts=2), seen(0.2, attempts=0))


def busy_count_forgotten(history: History) -> History:
    return with_sightings(history, seen(0.1, busy_count=3), seen(0.2, busy_count=1))


def called_while_suspended(history: History) -> History:
    return replace(history, suspensions=(SuspensionSeen("cleo", START, START + 60 * SECOND),))


def others_behind_the_blocked(history: History) -> History:
    return replace(history, released_ns=START + 3 * SECOND)


def never_at_rest(history: History) -> History:
    return replace(history, unsettled="updates: 4 of 5", released_ns=None)


def too_many_unfinished(history: History) -> History:
    return with_sample(history, unfinished=12)


def too_many_backlogs(history: History) -> History:
    return with_sample(history, backlogs=11)


def part_did_not_come_back(history: History) -> History:
    return replace(history, failures=("kafka is not ready after 90 s",))


def bridge_ended_by_itself(history: History) -> History:
    return replace(history, exits=("bridge-2 had ended by itself",))


BREAKS: dict[str, tuple[Callable[[History], History], ...]] = {
    ORDER: (order_reversed, overlap, step_left_out),
    WAITING: (others_behind_the_blocked, never_at_rest),
    RECORDS: (
        *(lost_record, made_twice, stranger, wrong_user, wrong_field, wrong_source, failed_for_nothing),
        *(succeeded_though_refused, never_finished, hand_made_lost, not_shown, wrong_reason, counted_twice),
        *(good_record_rejected, update_of_a_bad_record, position_went_back, position_forgotten),
        *(position_short_of_the_end, position_ahead_of_updates, position_ahead_of_rejected, kafka_lacks_a_record),
        *(update_never_called, update_called_that_is_none, applied_twice),
    ),
    CHECKPOINTS: (
        *(called_after_record_was_seen, repeated_for_nothing, another_key, called_after_completion),
        *(finished_comes_back, record_of_a_step_lost, bridge_ended_by_itself),
    ),
    DELAYS: (
        *(called_before_next_attempt, called_before_busy_delay, attempts_forgotten, busy_count_forgotten),
        called_while_suspended,
    ),
    BOUNDED: (too_many_unfinished, too_many_backlogs),
    RUN: (part_did_not_come_back,),
}


def cases() -> Iterator[Any]:
    for guarantee, breaks in BREAKS.items():
        for break_ in breaks:
            yield pytest.param(guarantee, break_, id=break_.__name__)


@pytest.mark.parametrize(("guarantee", "break_"), list(cases()))
def test_each_breach_is_found(guarantee: str, break_: Callable[[History], History]) -> None:
    assert guarantee in broken(break_(good_history()))


def test_a_call_cut_off_by_a_kill_may_be_repeated() -> None:
    history = repeated_for_nothing(good_history())
    killed = history.calls[-1].time_ns - 1
    assert CHECKPOINTS in broken(history)
    crash = Disturbance("kill", "controller-2", killed, killed + SECOND)
    assert broken(replace(history, disturbances=(crash,))) == {}


def test_a_crash_long_before_excuses_nothing() -> None:
    history = repeated_for_nothing(good_history())
    crash = Disturbance("kill", "controller", START - 60 * SECOND, START - 59 * SECOND)
    assert CHECKPOINTS in broken(replace(history, disturbances=(crash,)))


def test_a_bridge_that_was_killed_excuses_no_repeat() -> None:
    history = repeated_for_nothing(good_history())
    crash = Disturbance("kill", "bridge", START, START + 60 * SECOND)
    assert CHECKPOINTS in broken(replace(history, disturbances=(crash,)))


def test_a_frozen_controller_may_let_one_call_of_each_user_through() -> None:
    history = called_after_record_was_seen(good_history())
    frozen = Disturbance("freeze", "controller", START, START + 11 * SECOND)
    assert broken(replace(history, disturbances=(*history.disturbances, frozen))) == {}
    shortly = replace(frozen, end_ns=START + 5 * SECOND)
    assert CHECKPOINTS in broken(replace(history, disturbances=(*history.disturbances, shortly)))
    twice = with_call(history, replace(history.calls[-1], number=history.calls[-1].number + 1))
    assert CHECKPOINTS in broken(replace(twice, disturbances=(*history.disturbances, frozen)))


def test_a_suspension_acts_later_where_the_api_server_was_away() -> None:
    history = replace(good_history(), suspensions=(SuspensionSeen("cleo", START, START + 60 * SECOND),))
    away = Disturbance("kill", "apiserver", START, START + 3 * SECOND)
    assert DELAYS in broken(history)
    assert broken(replace(history, disturbances=(away,))) == {}


def test_what_a_backlog_names_is_not_lost() -> None:
    history = position_ahead_of_updates(good_history())
    backlogged = replace(history.samples[0], backlogs=1, backlogged=frozenset({(0, 0)}))
    assert RECORDS in broken(history)
    assert broken(replace(history, samples=(backlogged, *history.samples[1:]))) == {}


@pytest.mark.parametrize("offsets", [[0], [5, 6, 200], [1, 128, 16_384, 2**40], list(range(0, 900, 7))])
def test_the_offsets_of_a_backlog_are_read_as_the_bridge_writes_them(offsets: list[int]) -> None:
    assert list(waiting_offsets(OffsetQueue(offsets).encode())) == offsets


def test_a_folded_rejected_event_stands_for_its_neighbours() -> None:
    """Two bad records with a good one between them, shown by one object."""
    history = good_history()
    bad = replace(history.workload.records[0], value=b"{", reason="NotJSON")
    load = replace(history.workload, records=(bad, *history.workload.records[1:]))
    stored = replace(history.records[0], value=b"{")
    source = {**history.rejected[0]["spec"]["source"], "offset": 0, "lastOffset": 2}
    folded = with_rejected(history, source=source, count=2)
    folded = replace(
        folded,
        workload=load,
        records=(stored, *history.records[1:]),
        updates=history.updates[1:],
        calls=tuple(call for call in history.calls if call.sequence != 0),
        samples=tuple(replace(sample, rejected=((0, 0, 2),)) for sample in history.samples),
    )
    assert broken(folded) == {}
