"""From Kafka to the third call through both processes, while they are killed and records are bad."""

from __future__ import annotations

import time
from typing import Any

from tests.conftest import StartReplica
from tests.support.eventually import Stopwatch, eventually
from tests.support.pipeline import Pipeline
from tests.support.records import GOOD

USERS = [f"user{number:03d}" for number in range(200)]


def test_a_busy_user_keeps_none_of_199_waiting(
    pipeline: Pipeline, start_bridge: StartReplica, start_controller: StartReplica
) -> None:
    start_bridge()
    start_controller()
    pipeline.apply({"busyDelaySeconds": 0.5})
    pipeline.processing.rules({"name": "stuck", "user": USERS[0], "step": "profile", "action": "busy"})
    pipeline.produce(USERS, 20)
    pipeline.done(199 * 20, within=400)
    assert pipeline.finished_of(USERS[0]) == 0
    pipeline.processing.rules()
    pipeline.done(200 * 20, within=60)
    pipeline.all_recorded(200 * 20)
    wanted = [(user, index) for index, user in enumerate(user for _ in range(20) for user in USERS)]
    assert pipeline.processing.violations(finished=wanted, only=wanted, busy_delay=0.5) == []


def test_both_killed_in_the_middle_lose_and_double_nothing(
    pipeline: Pipeline, start_bridge: StartReplica, start_controller: StartReplica
) -> None:
    bridge, controller = start_bridge(), start_controller()
    pipeline.apply({"busyDelaySeconds": 2})
    pipeline.processing.rules(
        {"name": "stuck", "user": USERS[1], "step": "permissions", "action": "busy", "count": 2},
        {"name": "failing", "user": USERS[2], "action": "fail", "count": 2},
        latency=0.02,
    )
    count = pipeline.produce(USERS[:60], 10)
    kills = []
    for share, replica in ((0.2, controller), (0.35, bridge), (0.5, controller), (0.65, bridge)):
        pipeline.done(int(count * share), within=120)
        replica.kill()
        if replica is controller:
            kills.append(time.time_ns())
        replica.start()
    pipeline.done(count, within=120)
    pipeline.all_recorded(count)
    pipeline.ingested.has_made([(0, offset) for offset in range(count)])
    assert pipeline.processing.violations(crashes=kills, busy_delay=2) == []


POISON: dict[str, tuple[Any, Any, str]] = {
    "not JSON": ("ana", b"{nonsense", "NotJSON"),
    "a key that is not UTF-8": (b"\xff\xfe", GOOD, "KeyNotUTF8"),
    "no key": (None, GOOD, "NoKey"),
    "an empty key": (b"", GOOD, "NoKey"),
    "a tombstone": ("ana", None, "Tombstone"),
    "a missing field": ("ana", {"profile": "dev", "permissions": "all"}, "InvalidPayload"),
    "a wrong type": ("ana", {**GOOD, "resources": 7}, "InvalidPayload"),
    "a list": ("ana", b"[1]", "InvalidPayload"),
    "a field too long": ("ana", {**GOOD, "profile": "x" * 4097}, "InvalidPayload"),
    "two megabytes": ("ana", b'{"profile":"' + b"x" * (2 << 20) + b'"}', "TooLarge"),
}


def test_the_record_after_a_bad_one_is_finished_within_two_seconds(
    pipeline: Pipeline, start_bridge: StartReplica, start_controller: StartReplica
) -> None:
    start_bridge()
    start_controller()
    pipeline.apply()
    pipeline.produce(["first"], 1)
    pipeline.done(1, within=20)
    for turn, (key, value, reason) in enumerate(POISON.values()):
        pipeline.ingested.produce([(key, value), ("ana", GOOD)])
        watch = Stopwatch()
        pipeline.done(2 + turn, within=10)
        assert watch.seconds < 2, reason
    eventually(lambda: len(pipeline.ingested.rejected()) == len(POISON), within=5)
    shown = {event["source"]["offset"]: event["reason"] for event in pipeline.ingested.rejected()}
    assert shown == {1 + 2 * turn: reason for turn, (_, _, reason) in enumerate(POISON.values())}
