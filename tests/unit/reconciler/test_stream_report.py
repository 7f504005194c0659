"""What several shards write into one status: each its own entry, and the sums of all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from controller.api.user_update_status import Phase, Reason
from controller.core.sharding import Shard
from controller.core.step_health import StepReport
from controller.core.steps import STEPS
from controller.reconciler.stream_report import Summary, processing, summary, total, with_entry
from controller.reconciler.update_reader import parse
from tests.support.builders import BUSY_UNTIL_5, held_status, make_body, make_stream, make_update

FINISHED = {Phase.SUCCEEDED: 5, Phase.FAILED: 1, Phase.SKIPPED: 0, Phase.CANCELLED: 0}


def one(queued: int, held: int = 0, refused: int = 0) -> Summary:
    steps = tuple(
        StepReport(step.name, refused=refused, cause="401 from profile")
        if step.name == "profile" and refused
        else StepReport(step.name)
        for step in STEPS
    )
    return Summary({"queued": queued, "held": held}, {"held": held, "suspended": 0}, steps)


def entry(shard: int, own: Summary) -> dict[str, Any]:
    (made,) = with_entry([], own, Shard(shard, 16), "somebody")
    return made


def test_updates_are_counted_by_what_they_are_at() -> None:
    updates = [
        make_update(user="ana", sequence=1),
        make_update(user="bob", sequence=2, status=BUSY_UNTIL_5),
        make_update(user="eve", sequence=3, status=held_status(Reason.REJECTED)),
    ]
    found = summary(updates, FINISHED)
    assert found.counts == {
        "queued": 1,
        "running": 0,
        "waiting": 1,
        "held": 1,
        "succeeded": 5,
        "failed": 1,
        "skipped": 0,
        "cancelled": 0,
    }
    assert found.users == {"held": 1, "suspended": 0, "unreadable": 0}
    assert processing(make_stream(), found).ok


def test_a_stream_that_is_not_divided_has_no_entries() -> None:
    assert with_entry([entry(0, one(1)), entry(3, one(2))], one(9), Shard(), "me") == []


def test_a_shard_replaces_its_entry_and_drops_those_beyond_the_last() -> None:
    before = [entry(0, one(1)), entry(1, one(2)), entry(2, one(3)), entry(3, one(4))]
    after = with_entry(before, one(9), Shard(1, 3), "me")
    assert [(each["shard"], each["holder"], each["counts"]["queued"]) for each in after] == [
        (0, "somebody", 1),
        (1, "me", 9),
        (2, "somebody", 3),
    ]


def test_the_stream_has_the_sums_of_its_shards() -> None:
    found = total([entry(0, one(1, held=2, refused=1)), entry(1, one(10, refused=2))])
    assert found == one(11, held=2, refused=3)
    condition = processing(make_stream(), found)
    assert (condition.ok, condition.reason) == (False, "StepMisconfigured")
    assert condition.message == "profile: 3 users wait: 401 from profile"


def test_a_shard_without_trouble_tells_what_it_serves_where_another_asks() -> None:
    well = replace(one(1), steps=(StepReport("profile", served=9), StepReport("permissions", served=9)))
    assert "steps" not in entry(0, well)
    (_, mine) = with_entry([entry(0, one(1, refused=1))], well, Shard(1, 2), "me")
    assert [(step["name"], step["served"]) for step in mine["steps"]] == [("profile", 9)]
    condition = processing(make_stream(), total([entry(0, one(1, refused=1)), mine]))
    assert condition.ok
    assert condition.message == "updates are applied as they come; profile: 1 of 10 users waits: 401 from profile"


def test_a_successor_leaves_what_its_shard_has_told_until_it_knows_better() -> None:
    before = [entry(0, one(1, refused=2)), entry(1, one(1, refused=1))]
    fresh = replace(one(1), steps=(StepReport("profile", complete=False), StepReport("permissions", complete=False)))
    assert with_entry(before, fresh, Shard(0, 2), "me")[0]["steps"] == before[0]["steps"]
    known = replace(fresh, steps=(StepReport("profile", served=5), StepReport("permissions")))
    assert [step["served"] for step in with_entry(before, known, Shard(0, 2), "me")[0]["steps"]] == [5]


def test_the_first_trouble_of_all_shards_is_told() -> None:
    update = parse({**make_body(make_update(name="b")), "status": {"phase": "Paused"}})
    found = summary([update, make_update(user="eve")], FINISHED, in_doubt=[update])
    assert (found.users["unreadable"], found.counts["waiting"]) == (1, 1)
    other = Summary({}, {"unreadable": 2}, unreadable="a (KeyError)", refused_write="c (403)")
    whole = total([entry(0, found), entry(1, other), entry(2, one(1))])
    assert (whole.users["unreadable"], whole.unreadable, whole.refused_write) == (3, "a (KeyError)", "c (403)")
    condition = processing(make_stream(), whole)
    assert (condition.ok, condition.reason) == (False, "UpdateUnreadable")
    assert condition.message.startswith("3 users wait") and "a (KeyError) first" in condition.message
    assert processing(make_stream(), replace(whole, unreadable="")).reason == "StatusRefused"
