"""Finished updates are deleted when they may be, and not before; most of these were finished long ago, by the test."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.api import names, timestamps
from controller.api.offset_queue import OffsetQueue
from controller.reconciler.retention import BATCH
from tests.support.controller_stream import ControllerStream, all_steps, steps
from tests.support.eventually import eventually
from tests.support.records import GOOD, OTHER_TOPIC_ID, TOPIC_ID
from tests.support.replicas import Replica

pytestmark = pytest.mark.usefixtures("controller")

NOW = datetime.now(UTC)
#: Seconds until a due object is gone, and what a busy machine adds.
COLLECTED = 40


def finish(stream: ControllerStream, name: str, phase: str = "Succeeded", seconds_ago: float = 600) -> str:
    """As a controller would have finished it, that long ago."""
    reasons = {"Succeeded": "Succeeded", "Failed": "Rejected", "Skipped": "SkippedByRequest"}
    condition = {
        "type": "Succeeded",
        "status": "True" if phase == "Succeeded" else "False",
        "reason": reasons[phase],
        "message": "done",
        "lastTransitionTime": timestamps.to_text(datetime.now(UTC) - timedelta(seconds=seconds_ago)),
    }
    status = {"status": {"phase": phase, "conditions": [condition]}}
    stream.kube.patch(stream.namespace, "userupdates", name, status, status=True)
    return name


def reach(stream: ControllerStream, position: int, committed: int, *others: dict[str, Any]) -> None:
    """The bridge's part of the stream's status; `others`: entries of other topic ids."""
    entry = {"topic": stream.stream, "topicId": TOPIC_ID, "partition": 0, "position": position, "committed": committed}
    stream.kube.patch(
        stream.namespace, "updatestreams", stream.stream, {"status": {"partitions": [*others, entry]}}, status=True
    )


def remain(stream: ControllerStream, wanted: set[str]) -> None:
    """Wait until these are left and no others."""

    def there() -> bool:
        assert set(stream.phases()) == wanted
        return True

    eventually(there, COLLECTED)


def test_old_ones_go_and_young_ones_stay(stream: ControllerStream) -> None:
    ended = [("Succeeded", 130), ("Succeeded", 90), ("Failed", 130), ("Failed", 400), ("Skipped", 400)]
    made = [finish(stream, stream.record("ana", n, NOW), *end) for n, end in enumerate(ended)]
    young = finish(stream, stream.record("ana", 9, NOW), "Failed", 10)
    stream.apply(retention={"succeededSeconds": 120, "failedSeconds": 300})
    reach(stream, 10, 10)
    remain(stream, {made[1], made[2], young})
    stream.change(retention={"succeededSeconds": 60, "failedSeconds": 0})
    remain(stream, {young})


def test_too_many_go_the_succeeded_ones_first(stream: ControllerStream) -> None:
    phases = ["Failed", "Skipped", "Succeeded", "Succeeded", "Failed", "Succeeded"]
    made = [finish(stream, stream.record("ana", n, NOW), phase, 600 - n) for n, phase in enumerate(phases)]
    by_hand = finish(stream, stream.add("bo", 1))  # is not counted
    stream.apply(retention={"maxFinished": 4})
    reach(stream, 9, 9)
    remain(stream, {*made, by_hand} - {made[2], made[3]})
    stream.change(retention={"maxFinished": 1})
    remain(stream, {made[4], by_hand})


def test_only_what_cannot_be_delivered_again_goes(stream: ControllerStream) -> None:
    made = [finish(stream, stream.record("ana", offset, NOW)) for offset in range(6)]
    stream.apply(retention={"succeededSeconds": 0})
    finish(stream, stream.add("bo", 1, ttlSecondsAfterFinished=0))
    remain(stream, set(made))  # without a position nothing but the hand-made one
    reach(stream, 5, 2)
    remain(stream, set(made[2:]))
    reach(stream, 5, 5)
    remain(stream, {made[5]})


def test_what_a_topic_that_is_gone_has_left_goes_by_age_and_pushes_nothing_out(stream: ControllerStream) -> None:
    """They stayed for ever and were counted: with `maxFinished` of them no update of the present topic was kept."""
    gone, absent = [
        [finish(stream, stream.record("ana", offset, NOW, topic_id=topic_id), seconds_ago=600) for offset in range(3)]
        for topic_id in (OTHER_TOPIC_ID, "absentAAAAAAAAAAAAAAAA")
    ]
    young = finish(stream, stream.record("ana", 3, NOW, topic_id=OTHER_TOPIC_ID), seconds_ago=90)
    made = [finish(stream, stream.record("bo", offset, NOW), seconds_ago=400) for offset in range(3)]
    entry = {"topicId": OTHER_TOPIC_ID, "partition": 0, "position": 1, "committed": 1}
    stream.apply(retention={"succeededSeconds": 500})
    reach(stream, 9, 9, entry)
    # The topic exists, or may exist: updates above position or commit stay, and those of an id that is not listed.
    eventually(lambda: gone[0] not in stream.phases(), COLLECTED)
    assert {*gone[1:], *absent} <= set(stream.phases())
    reach(stream, 9, 9, {**entry, "gone": True})
    stream.change(retention={"maxFinished": 6})
    remain(stream, {young, *made, *absent})


def test_an_entry_that_cannot_be_read_keeps_what_it_may_list_and_nothing_else(stream: ControllerStream) -> None:
    made = [finish(stream, stream.record(user, offset, NOW)) for offset, user in enumerate(["ana", "bo"])]
    spec: dict[str, Any] = {"stream": stream.stream, "user": "ana"}
    spec |= {"partitions": [{"topicId": TOPIC_ID, "partition": 0, "offsets": "torn!"}]}
    name = names.backlog_name(stream.stream, "ana")
    stream.kube.create(stream.namespace, "userbacklogs", {"metadata": {"name": name}, "spec": spec})
    stream.apply(retention={"succeededSeconds": 0})
    reach(stream, 9, 9)
    remain(stream, {made[0]})


def test_what_somebody_has_changed_since_is_judged_anew(stream: ControllerStream) -> None:
    """A delete names the version that was judged; an update that was changed and is still finished goes later."""
    made = [finish(stream, stream.record("ana", offset, NOW), seconds_ago=300) for offset in range(2)]
    stream.apply(retention={"succeededSeconds": 600})
    reach(stream, 9, 9)

    def listed() -> bool:
        status = stream.kube.get(stream.namespace, "updatestreams", stream.stream)["status"]
        return bool(status.get("counts", {}).get("succeeded") == 2)

    eventually(listed, COLLECTED)
    stream.kube.patch(stream.namespace, "userupdates", made[0], {"metadata": {"annotations": {"note": "seen"}}})
    stream.change(retention={"succeededSeconds": 0})
    remain(stream, set())


def test_what_waits_in_a_backlog_stays(stream: ControllerStream) -> None:
    made = [finish(stream, stream.record(user, offset, NOW)) for offset, user in enumerate(["ana", "bo", "ana"])]
    offsets = OffsetQueue([2, 7])
    partition = {"topicId": TOPIC_ID, "partition": 0, "offsets": offsets.encode(), "count": 2, "first": 2, "last": 7}
    spec: dict[str, Any] = {"stream": stream.stream, "user": "ana", "partitions": [partition]}
    backlog = names.backlog_name(stream.stream, "ana")
    stream.kube.create(stream.namespace, "userbacklogs", {"metadata": {"name": backlog}, "spec": spec})
    stream.apply(retention={"succeededSeconds": 0})
    reach(stream, 8, 8)
    remain(stream, {made[2]})
    stream.kube.delete(stream.namespace, "userbacklogs", backlog)
    remain(stream, set())


def test_what_waits_in_backlogs_keeps_nothing_else_from_going(stream: ControllerStream) -> None:
    """There are more of them than a round deletes, and they come first: nothing behind them was ever collected."""
    count = BATCH + 20
    made = [name for user, offset in stream.records(["ana"], count, NOW) for name in [stream.record_name(offset)]]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: finish(stream, name, seconds_ago=900), made))
    behind = [finish(stream, stream.record("bo", count + offset, NOW), seconds_ago=300) for offset in range(3)]
    offsets = OffsetQueue(range(count)).encode()
    spec: dict[str, Any] = {"stream": stream.stream, "user": "ana"}
    spec |= {"partitions": [{"topicId": TOPIC_ID, "partition": 0, "offsets": offsets}]}
    backlog = names.backlog_name(stream.stream, "ana")
    stream.kube.create(stream.namespace, "userbacklogs", {"metadata": {"name": backlog}, "spec": spec})
    stream.apply(retention={"succeededSeconds": 0})
    reach(stream, 9999, 9999)
    eventually(lambda: not {*behind} & set(stream.phases()), COLLECTED)
    assert set(stream.phases()) == set(made)


def test_backlogs_of_many_users_are_not_asked_for_one_by_one(stream: ControllerStream) -> None:
    """With a thousand of them a flood finished ten times faster than it was collected."""
    users = [f"user{number}" for number in range(60)]
    made = stream.records(users, 1, NOW)
    for user, offset in made:
        finish(stream, stream.record_name(offset))
        rest = {"topicId": TOPIC_ID, "partition": 0, "offsets": OffsetQueue([900 + offset]).encode(), "count": 1}
        spec = {"stream": stream.stream, "user": user, "partitions": [rest]}
        name = names.backlog_name(stream.stream, user)
        stream.kube.create(stream.namespace, "userbacklogs", {"metadata": {"name": name}, "spec": spec})
    before = stream.kube.requests("userbacklogs")
    stream.apply(retention={"succeededSeconds": 0})
    reach(stream, 60, 60)
    remain(stream, set())
    asked = stream.kube.requests("userbacklogs") - before
    assert asked["GET", "200"] == 0
    assert 0 < asked["LIST", "200"] < 60


def test_a_surplus_that_must_stay_does_not_keep_the_rest(stream: ControllerStream) -> None:
    stuck = [finish(stream, stream.record("ana", offset, NOW, partition=1), seconds_ago=900) for offset in range(3)]
    made = [finish(stream, stream.record("bo", offset, NOW)) for offset in range(3)]
    stream.apply(retention={"maxFinished": 3})
    reach(stream, 3, 3)
    remain(stream, set(stuck))
    assert len(made) == 3


def test_unfinished_ones_stay(stream: ControllerStream) -> None:
    stream.apply(suspend={"processing": True}, retention={"succeededSeconds": 0, "failedSeconds": 0, "maxFinished": 0})
    waiting = [stream.add("ana", 1), stream.add("ana", 2)]
    finish(stream, stream.add("bo", 1, ttlSecondsAfterFinished=0))
    remain(stream, set(waiting))


def test_what_is_applied_again_and_again_runs_once(stream: ControllerStream) -> None:
    """It was collected with the rest; applied again after that, it ran again, under new keys."""
    manifest = {"stream": stream.stream, "user": "ana", "sequence": 1, **GOOD}
    body = {"apiVersion": names.API_VERSION, "kind": "UserUpdate", "metadata": {"name": "by-hand"}, "spec": manifest}

    def apply() -> None:
        stream.environment.kubectl("--namespace", stream.namespace, "apply", "-f", "-", stdin=json.dumps(body))

    apply()
    by_hand = finish(stream, "by-hand")
    limited = finish(stream, stream.add("bo", 1, ttlSecondsAfterFinished=590), "Failed")
    longer = finish(stream, stream.add("bo", 2, ttlSecondsAfterFinished=6000), "Failed")
    record = finish(stream, stream.record("cy", 1, NOW))
    stream.apply(retention={"succeededSeconds": 0, "failedSeconds": 0, "maxFinished": 0})
    reach(stream, 9, 9)
    eventually(lambda: not {limited, record} & set(stream.phases()), COLLECTED)
    apply()
    stream.until(stream.add("ana", 2), "Succeeded")
    assert set(stream.phases()) == {by_hand, longer, "ana-2"}
    assert steps(stream.calls("ana")) == all_steps("ana", 2)


@pytest.mark.long  # a minute; tests/unit/reconciler/test_retention.py also tests what is due when, on a virtual clock
def test_collection_goes_on_after_a_restart_and_not_before_a_minute(
    stream: ControllerStream, controller: Replica
) -> None:
    stream.apply(retention={"succeededSeconds": 0, "maxFinished": 0})
    name = stream.record("ana", 1, NOW)
    reach(stream, 9, 9)
    ended = timestamps.from_text(stream.until(name, "Succeeded")["conditions"][0]["lastTransitionTime"]).timestamp()
    controller.kill()
    controller.start()
    eventually(lambda: not stream.phases(), 60 + COLLECTED, every=0.5)
    assert time.time() - ended >= 60
