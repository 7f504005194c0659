"""Far more than fits: the backlog stays in Kafka, memory and objects stay bounded, and nobody waits for somebody else.

Each flood is here at a tenth of its size, and whole as a `long` one: `make floods`.
"""

from __future__ import annotations

import bisect
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import confluent_kafka as ck
import orjson
import psutil
import pytest

from devenv import broker
from devenv.environment import Environment
from devenv.journal import STEPS
from tests.conftest import StartReplica
from tests.support.background import repeating
from tests.support.costs import backlog_writes, wal_bytes
from tests.support.eventually import Stopwatch, eventually
from tests.support.kube import Kube
from tests.support.misbehaving import PATIENCE, hanging_name, missing_certificate, of_one_stream
from tests.support.pipeline import Pipeline, make_pipeline
from tests.support.records import GOOD
from tests.support.replicas import Replica, linked_by

MIB = 1 << 20
#: What a stream keeps where it says nothing: `retention.maxFinished`.
MAX_FINISHED = 5000
#: Times that each misbehaviour comes in turn, and events of the good users in each time: fifteen a second.
ROUNDS = 4
WINDOW = 150
FINISHED = "enrichment_controller_updates_finished_total{"


@pytest.mark.parametrize(
    ("records", "users", "objects"),
    [(2_000, 100, 60), pytest.param(50_000, 2_000, 1_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
)
def test_a_backlog_beyond_all_bounds_waits_in_kafka(
    pipeline: Pipeline,
    start_bridge: StartReplica,
    start_controller: StartReplica,
    environment: Environment,
    records: int,
    users: int,
    objects: int,
) -> None:
    replicas = [start_bridge(), start_controller()]
    pipeline.apply({"retry": {"initialSeconds": 1, "maxSeconds": 2}}, limits={"maxObjects": objects, "maxPerUser": 5})
    everybody = [f"user{number}" for number in range(users)]
    environment.kill("downstream")
    try:
        with looks(pipeline, replicas) as seen:
            pipeline.produce(everybody, records // users)
            eventually(lambda: max(seen.unfinished, default=0) >= objects * 0.9, within=120)
            eventually(lambda: pipeline.ingested.entry().get("lag", 0) > 0, within=60)
            # As long again as it took to get here: whatever still grew would show.
            began, filled = time.monotonic(), len(seen.memory)
            eventually(lambda: len(seen.memory) >= 2 * filled + 5, within=300)
            print(f"full after {filled} looks, then {time.monotonic() - began:.0f} s of nothing but retries")
            environment.start("downstream")
            back, moving = time.monotonic(), len(seen.memory)
            pipeline.done(records, within=60 + records / 12)
            took = time.monotonic() - back
            settled(pipeline)
    finally:
        environment.start("downstream")
    print(f"{records} records in {took:.0f} s, {records / took:.0f} a second; {seen}")
    print("MiB by the minute:", *(size // MIB for size in seen.memory[::30]))
    assert max(seen.unfinished) <= objects
    assert max(seen.memory) < 400 * MIB
    assert max(seen.memory[filled:moving]) < 1.25 * max(seen.memory[:filled]), "memory grew while nothing moved"
    half = (moving + len(seen.memory)) // 2
    assert max(seen.memory[half:]) < 1.1 * max(seen.memory[moving:half]), "memory grew for as long as there was work"
    assert all(seen.healthy)
    pipeline.ingested.positioned(records, within=60)
    pipeline.applied_once(everybody * (records // users))
    assert seen.overdue() <= 100, "finished updates pile up"


@pytest.mark.parametrize("waiting", [600, pytest.param(20_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_a_suspended_user_with_a_mountain_is_passed_by(
    pipeline: Pipeline,
    start_bridge: StartReplica,
    start_controller: StartReplica,
    environment: Environment,
    kube: Kube,
    waiting: int,
) -> None:
    replicas = [start_bridge(), start_controller()]
    pipeline.apply(suspend={"users": ["mountain"]})
    others = [f"user{number}" for number in range(50)]
    usual = timed(pipeline, others)
    writes, stored = backlog_writes(kube), wal_bytes(environment)
    with looks(pipeline, replicas) as seen:
        pipeline.produce(["mountain"], waiting)
        behind = timed(pipeline, others)
        print(f"200 events took {usual:.1f} s, and {behind:.1f} s behind {waiting} of a suspended user")
        assert behind < 2 * usual + 3
        pipeline.ingested.positioned(waiting + 400, within=60)
        assert pipeline.unfinished() <= 5
        pipeline.ingested.change(suspend={"users": []})
        began = time.monotonic()
        pipeline.done(waiting + 400, within=30 + waiting / 12)
        print(f"resumed, {waiting / (time.monotonic() - began):.0f} of them a second; {seen}")
        writes, stored = backlog_writes(kube) - writes, wal_bytes(environment) - stored
        print(f"{writes} writes of the UserBacklog; {stored / (waiting + 200):.0f} bytes an event to etcd's log in all")
    settled(pipeline)
    pipeline.applied_once(others * 4 + ["mountain"] * waiting + others * 4)
    assert max(seen.memory) < 400 * MIB


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_many_stuck_users_keep_nobody_else_waiting(
    pipeline: Pipeline, start_bridge: StartReplica, start_controller: StartReplica, count: int
) -> None:
    start_bridge()
    start_controller()
    stuck = [f"stuck{number}" for number in range(count)]
    pipeline.apply(suspend={"users": stuck}, limits={"maxObjects": 2 * count})
    others = [f"user{number}" for number in range(50)]
    usual = timed(pipeline, others)
    pipeline.produce(stuck, 20)
    behind = timed(pipeline, others)
    print(f"200 events took {usual:.1f} s, and {behind:.1f} s behind {count} stuck users")
    # All of the stuck users' records are read, and their first ones created, before those of the others.
    assert behind < 2 * usual + 3 + count / 50
    pipeline.ingested.positioned(20 * count + 400, within=120)
    assert pipeline.unfinished() <= 2 * count


@pytest.mark.long
def test_hanging_calls_of_a_hundred_users_slow_nobody_down(
    pipeline: Pipeline, start_bridge: StartReplica, start_controller: StartReplica
) -> None:
    start_bridge()
    start_controller()
    pipeline.apply({"timeoutSeconds": 30})
    others = [f"user{number}" for number in range(50)]
    paced(pipeline, others, 100)  # all workers, connections and caches are warm
    alone: list[float] = []
    beside: list[float] = []
    for turn in range(3):
        alone += paced(pipeline, others, 1200)
        pipeline.processing.rules({"name": "hang", "user": "hung*", "action": "hang"})
        pipeline.produce([f"hung{turn}-{number}" for number in range(100)], 1)
        eventually(lambda: pipeline.in_flight() >= 100, 60)
        beside += paced(pipeline, others, 1200)  # for 40 s: the calls run into their time-outs meanwhile
        pipeline.processing.rules()
        eventually(lambda: pipeline.unfinished() == 0, 120)
    told = [f"p50 {1000 * statistics.median(each):.0f} ms, p99 {1000 * p99(each):.0f} ms" for each in (alone, beside)]
    ratio = p99(beside) / p99(alone)
    print(f"from record to third answer: {told[0]}; beside 100 users whose calls hang: {told[1]}; ratio {ratio:.2f}")
    assert ratio <= 1.1


@pytest.fixture
def further_pipeline(
    kube: Kube, environment: Environment, namespace: str, topic: str
) -> Iterator[Callable[[], Pipeline]]:
    """Makes further streams, each with a topic of its own."""
    topics: list[str] = []

    def make() -> Pipeline:
        topics.append(f"{topic}-{len(topics)}")
        broker.create_topic(environment.bootstrap_servers, topics[-1])
        pipeline = make_pipeline(kube, environment, namespace, topics[-1])
        return Pipeline(replace(pipeline.ingested, name=topics[-1]), replace(pipeline.processing, stream=topics[-1]))

    yield make
    for name in topics:
        broker.delete_topic(environment.bootstrap_servers, name)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_misbehaving_downstreams_in_turn_slow_no_good_user_down(
    pipeline: Pipeline, further_pipeline: Callable[[], Pipeline], start_bridge: StartReplica, environment: Environment
) -> None:
    """Each of them beside 50 good users, between two times without any."""
    start_bridge()
    others = [f"user{number}" for number in range(50)]
    turns: dict[str, list[tuple[list[float], list[float]]]] = {}
    with ExitStack() as stack:
        controller, names = stack.enter_context(linked_by("controller-names", environment, "controller", "resolving"))
        controller.start()
        pipeline.apply(PATIENCE)
        misbehaviours = of_one_stream(pipeline)
        misbehaviours.append(hanging_name(further_pipeline(), names))
        misbehaviours.append(stack.enter_context(missing_certificate(further_pipeline())))
        paced(pipeline, others, 300)  # all workers, connections and caches are warm
        for _ in range(ROUNDS):
            for misbehaviour in misbehaviours:
                alone = paced(pipeline, others, WINDOW, a_second=15)
                with misbehaviour.going_on():
                    beside = paced(pipeline, others, WINDOW, a_second=15)
                turns.setdefault(misbehaviour.name, []).append((alone, beside))
    pairs = list(chain(*turns.values()))
    for name, found in {**turns, "all": pairs}.items():
        print(f"{name:>20}: {told(found)}")
    # Of times that follow each other: what else the machine does comes and goes, and one bad time decides a p99 of all.
    assert statistics.median(p99(beside) / p99(alone) for alone, beside in pairs) <= 1.1


def told(pairs: Sequence[tuple[list[float], list[float]]]) -> str:
    """What is to be seen of times without and beside something."""
    without, beside = ([1000 * each for each in chain(*times)] for times in zip(*pairs, strict=True))
    low, middle, high = statistics.quantiles((p99(beside) / p99(alone) for alone, beside in pairs), n=4)
    return (
        f"p50 {statistics.median(without):.0f} ms without, {statistics.median(beside):.0f} ms beside it,"
        f" p99 {p99(without):.0f} and {p99(beside):.0f} ms; p99 of neighbouring times, ratio: median {middle:.2f},"
        f" half of them {low:.2f} to {high:.2f}"
    )


def settled(pipeline: Pipeline) -> None:
    """Wait until no update is unfinished; of a large flood most are collected by then."""
    eventually(lambda: pipeline.unfinished() == 0, 60, every=0.5)


def ended(replicas: list[Replica]) -> int:
    """Updates that these controllers have finished."""
    lines = (line for replica in replicas for line in replica.metrics().splitlines())
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(FINISHED))


def p99(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def timed(pipeline: Pipeline, users: list[str]) -> float:
    """Seconds until four events of each are done, whatever others wait for."""
    before = pipeline.finished()
    watch = Stopwatch()
    count = pipeline.produce(users, 4)
    pipeline.done(before + count, within=120)
    return watch.seconds


def paced(pipeline: Pipeline, users: list[str], count: int, a_second: float = 30) -> list[float]:
    """So many events at an even pace, the users in turn: seconds from each record to its third answer."""
    profile = f"at-{time.monotonic_ns()}"
    sent: dict[str, int] = {}
    producer = ck.Producer({"bootstrap.servers": pipeline.ingested.bootstrap, "linger.ms": 0})
    before, began = pipeline.finished(), time.monotonic()
    for number in range(count):
        while (early := began + number / a_second - time.monotonic()) > 0:
            producer.poll(early)  # which returns at whatever happens to the client
        value = orjson.dumps({**GOOD, "resources": f"{profile}-{number}"})
        sent[f"{profile}-{number}"] = time.time_ns()
        producer.produce(pipeline.ingested.topic, value, users[number % len(users)], partition=0)
    assert producer.flush(10) == 0
    pipeline.done(before + count, within=60)
    ends = {
        call.body["resources"]: call.end_time_ns
        for call in pipeline.journal()
        if call.step == STEPS[-1] and call.applied and call.body["resources"] in sent
    }
    return [((ends[key] or 0) - at) / 1e9 for key, at in sent.items()]


class Look(NamedTuple):
    """What was looked at once."""

    unfinished: int
    #: Finished updates that are still there, and (monotonic seconds) how many had ended by then.
    kept: int
    ended: tuple[float, int]
    memory: int
    healthy: bool


class Seen:
    """What was looked at every other second."""

    def __init__(self) -> None:
        self.looks: list[Look] = []

    @property
    def unfinished(self) -> list[int]:
        return [look.unfinished for look in self.looks]

    @property
    def kept(self) -> list[int]:
        return [look.kept for look in self.looks]

    @property
    def memory(self) -> list[int]:
        return [look.memory for look in self.looks]

    @property
    def healthy(self) -> list[bool]:
        return [look.healthy for look in self.looks]

    def __str__(self) -> str:
        most = max(self.memory, default=0) // MIB
        return (
            f"most unfinished {max(self.unfinished, default=0)}, most finished {max(self.kept, default=0)}, "
            f"{self.overdue()} at most overdue for collection, most memory of both processes {most} MiB"
        )

    def overdue(self) -> int:
        """Most finished updates that were due for 30 s and still there.

        Due were, 30 s before, those beyond the newest `MAX_FINISHED` that had ended a minute before that; what has
        ended since is there by right.
        """
        return max((self._overdue(number) for number in range(len(self.looks))), default=0)

    def _overdue(self, number: int) -> int:
        _, kept, (at, count), _, _ = self.looks[number]
        return kept - max(MAX_FINISHED + count - self._ended_by(at - 30), count - self._ended_by(at - 90))

    def _ended_by(self, at: float) -> int:
        """How many had ended at the last look until then."""
        number = bisect.bisect_right(self.looks, (at, sys.maxsize), key=lambda look: look.ended)
        return self.looks[number - 1].ended[1] if number else 0


@contextmanager
def looks(pipeline: Pipeline, replicas: list[Replica], every: float = 2.0) -> Iterator[Seen]:
    """Unfinished objects, memory of these processes and the API server's health, for as long as the block runs."""
    seen = Seen()

    def look() -> None:
        unfinished = pipeline.unfinished(cached=True)
        kept = pipeline.objects() - unfinished
        count = time.monotonic(), ended(replicas)
        memory = sum(int(psutil.Process(each.pid).memory_info().rss) for each in replicas)
        healthy = pipeline.ingested.kube.client.get("/readyz").is_success
        seen.looks.append(Look(unfinished, kept, count, memory, healthy))

    with repeating(look, every):
        yield seen
