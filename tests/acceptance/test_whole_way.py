"""From Kafka to the third call through both processes, while they are killed and records are bad."""

from __future__ import annotations

import time
from typing import Any

import pytest

from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.eventually import Stopwatch, eventually
from tests.support.ingest import GOOD
from tests.support.kube import Kube
from tests.support.whole import Whole, whole

USERS = [f"user{number:03d}" for number in range(200)]


@pytest.fixture
def way(kube: Kube, environment: Environment, namespace: str, topic: str) -> Whole:
    return whole(kube, environment, namespace, topic)


def test_a_busy_user_keeps_none_of_199_waiting(
    way: Whole, start_bridge: StartReplica, start_controller: StartReplica
) -> None:
    start_bridge()
    start_controller()
    way.apply({"busyDelaySeconds": 0.5})
    way.processing.rules({"name": "stuck", "user": USERS[0], "step": "profile", "action": "busy"})
    way.produce(USERS, 20)
    way.done(199 * 20, within=400)
    assert way.finished_of(USERS[0]) == 0
    way.processing.rules()
    way.done(200 * 20, within=60)
    way.all_recorded(200 * 20)
    wanted = [(user, index) for index, user in enumerate(user for _ in range(20) for user in USERS)]
    assert way.processing.violations(finished=wanted, only=wanted, busy_delay=0.5) == []


def test_both_killed_in_the_middle_lose_and_double_nothing(
    way: Whole, start_bridge: StartReplica, start_controller: StartReplica
) -> None:
    bridge, controller = start_bridge(), start_controller()
    way.apply({"busyDelaySeconds": 2})
    way.processing.rules(
        {"name": "stuck", "user": USERS[1], "step": "permissions", "action": "busy", "count": 2},
        {"name": "failing", "user": USERS[2], "action": "fail", "count": 2},
        latency=0.02,
    )
    count = way.produce(USERS[:60], 10)
    kills = []
    for share, replica in ((0.2, controller), (0.35, bridge), (0.5, controller), (0.65, bridge)):
        way.done(int(count * share), within=120)
        replica.kill()
        if replica is controller:
            kills.append(time.time_ns())
        replica.start()
    way.done(count, within=120)
    way.all_recorded(count)
    assert way.ingested.offsets() == [(0, offset) for offset in range(count)]
    assert way.processing.violations(crashes=kills, busy_delay=2) == []


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
    way: Whole, start_bridge: StartReplica, start_controller: StartReplica
) -> None:
    start_bridge()
    start_controller()
    way.apply()
    way.produce(["first"], 1)
    way.done(1, within=20)
    for turn, (key, value, reason) in enumerate(POISON.values()):
        way.ingested.produce([(key, value), ("ana", GOOD)])
        watch = Stopwatch()
        way.done(2 + turn, within=10)
        assert watch.seconds < 2, reason
    eventually(lambda: len(way.ingested.rejected()) == len(POISON), within=5)
    shown = {event["source"]["offset"]: event["reason"] for event in way.ingested.rejected()}
    assert shown == {1 + 2 * turn: reason for turn, (_, _, reason) in enumerate(POISON.values())}
