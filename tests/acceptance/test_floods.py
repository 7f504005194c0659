"""Far more than fits: the backlog stays in Kafka, memory and objects stay bounded, and nobody waits for somebody else.

Each flood is here at a tenth of its size, and whole as a `long` one: `make floods`.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from controller.devenv.environment import Environment
from controller.devenv.journal import STEPS
from tests.conftest import StartReplica
from tests.eventually import eventually
from tests.kube import Kube
from tests.replicas import Replica
from tests.whole import Whole, whole

MIB = 1 << 20


@pytest.fixture
def way(kube: Kube, environment: Environment, namespace: str, topic: str) -> Whole:
    return whole(kube, environment, namespace, topic)


@pytest.mark.parametrize(
    ("records", "users", "objects"),
    [(2_000, 100, 60), pytest.param(50_000, 2_000, 1_000, marks=[pytest.mark.long, pytest.mark.timeout(2400)])],
)
def test_a_backlog_beyond_all_bounds_waits_in_kafka(
    way: Whole, start_bridge: StartReplica, start_controller: StartReplica, records: int, users: int, objects: int
) -> None:
    replicas = [start_bridge(), start_controller()]
    way.apply({"retry": {"initialSeconds": 1, "maxSeconds": 2}}, limits={"maxObjects": objects, "maxPerUser": 5})
    way.processing.rules({"name": "down", "action": "fail", "status": 500})
    with sampled(way.unfinished) as unfinished, sampled(lambda: resident(replicas)) as memory:
        way.produce([f"user{number}" for number in range(users)], records // users)
        eventually(lambda: max(unfinished, default=0) >= objects * 0.9, within=120)
        eventually(lambda: way.ingested.entry().get("lag", 0) > 0, within=60)
        way.processing.rules()
        way.done(records, within=60 + records / 20)
    way.all_recorded(records, within=60)
    assert max(unfinished) <= objects
    assert max(memory) < 400 * MIB
    assert way.processing.violations() == []
    print(f"most unfinished {max(unfinished)} of {objects}, most memory {max(memory) // MIB} MiB")


@pytest.mark.parametrize("waiting", [600, pytest.param(20_000, marks=[pytest.mark.long, pytest.mark.timeout(2400)])])
def test_a_suspended_user_with_a_mountain_is_passed_by(
    way: Whole, start_bridge: StartReplica, start_controller: StartReplica, waiting: int
) -> None:
    start_bridge()
    start_controller()
    way.apply(suspend={"users": ["mountain"]})
    way.produce(["mountain"], waiting)
    others = [f"user{number}" for number in range(50)]
    began = time.monotonic()
    way.produce(others, 4)
    way.done(200, within=60)
    print(f"200 events behind {waiting} of a suspended user took {time.monotonic() - began:.1f} s")
    way.ingested.positioned(waiting + 200, within=60)
    assert way.unfinished() <= 5
    way.ingested.change(suspend={"users": []})
    way.done(waiting + 200, within=waiting / 12)
    assert way.processing.violations() == []


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_many_stuck_users_keep_nobody_else_waiting(
    way: Whole, start_bridge: StartReplica, start_controller: StartReplica, count: int
) -> None:
    start_bridge()
    start_controller()
    stuck = [f"stuck{number}" for number in range(count)]
    way.apply(suspend={"users": stuck}, limits={"maxObjects": 2 * count})
    way.produce(stuck, 20)
    others = [f"user{number}" for number in range(50)]
    began = time.monotonic()
    way.produce(others, 4)
    way.done(200, within=120)
    print(f"200 events behind {count} stuck users took {time.monotonic() - began:.1f} s")
    way.ingested.positioned(20 * count + 200, within=120)
    assert way.unfinished() <= 2 * count


@pytest.mark.long
@pytest.mark.timeout(900)
def test_hanging_calls_of_a_hundred_users_slow_nobody_down(
    way: Whole, start_bridge: StartReplica, start_controller: StartReplica
) -> None:
    start_bridge()
    start_controller()
    way.apply({"timeoutSeconds": 30})
    others = [f"user{number}" for number in range(50)]
    way.produce(others, 2)
    way.done(100, within=60)

    def p99() -> float:
        before = way.finished()
        started = time.time_ns()
        for turn in range(10):
            way.ingested.produce(
                (user, {"profile": "dev", "permissions": "all", "resources": "all"}) for user in others
            )
            way.done(before + 50 * (turn + 1), within=60)
        ends = [
            (call.end_time_ns or 0, call.user, call.sequence, call.time_ns)
            for call in way.processing.calls()
            if call.step == STEPS[-1] and call.time_ns > started
        ]
        firsts = {(call.user, call.sequence): call.time_ns for call in way.processing.calls() if call.step == STEPS[0]}
        spans = [(end - firsts[user, sequence]) / 1e9 for end, user, sequence, _ in ends]
        return statistics.quantiles(spans, n=100)[98]

    alone = [p99() for _ in range(3)]
    way.processing.rules({"name": "hang", "user": "hung*", "action": "hang"})
    way.produce([f"hung{number}" for number in range(100)], 1)
    eventually(lambda: len({call.user for call in way.processing.calls() if call.user.startswith("hung")}) == 100, 60)
    beside = [p99() for _ in range(3)]
    ratio = statistics.median(beside) / statistics.median(alone)
    print(f"p99 of the others: {alone} without, {beside} with 100 users hanging; ratio of medians {ratio:.2f}")
    assert ratio < 1.5  # the claim is 1.1; a shared machine's noise is more


def resident(replicas: list[Replica]) -> int:
    """Bytes of memory of these processes together."""
    return sum(int(psutil.Process(replica.pid).memory_info().rss) for replica in replicas)


@contextmanager
def sampled(look: Callable[[], int], every: float = 2.0) -> Iterator[list[int]]:
    """What `look` says every two seconds, for as long as the block runs."""
    samples: list[int] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(every):
            samples.append(look())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join(30)
