"""Throughput of a backlog: events a second, from a burst of records to the last event's last call."""

from __future__ import annotations

import time
from dataclasses import dataclass

from controller.devenv.errors import StartFailed
from tests.benchmarks.contenders import Contender
from tests.benchmarks.events import Producer, users_in_turns
from tests.benchmarks.meter import Cost, cost
from tests.benchmarks.stage import Stage, Topic

#: Seconds without an event done after which a run is given up.
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """So many events of so many users in turns, after a warm-up of others."""

    events: int
    users: int
    warm_up: int
    latency_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BacklogRun:
    #: From the burst to the last call.
    seconds: float
    events_per_second: float
    #: From the last call until nothing was left to be written.
    seconds_to_record: float
    cost: Cost


def run(stage: Stage, contender: Contender, scenario: Backlog) -> BacklogRun:
    """One run of one contender on a topic of its own."""
    with stage.topic() as topic:
        try:
            producer = Producer(stage.environment.bootstrap_servers, topic.name)
            stage.control(latencySeconds=scenario.latency_seconds)
            producer.burst(users_in_turns(scenario.warm_up, scenario.users))
            contender.start(stage, topic)
            stage.wait_count(scenario.warm_up, contender.processes, PATIENCE)
            _wait_recorded(stage, contender, topic)
            stage.control(latencySeconds=scenario.latency_seconds)
            meter = stage.meter(contender.processes)
            before = meter.before()
            start = time.monotonic()
            producer.burst(users_in_turns(scenario.events, scenario.users, scenario.warm_up))
            stage.wait_count(scenario.events, contender.processes, PATIENCE)
            end = max(stage.report()["last"].values())
            recorded = _wait_recorded(stage, contender, topic)
            spent = cost(before, meter.after(), scenario.events)
        finally:
            contender.stop(stage)
    seconds = end - start
    return BacklogRun(seconds, scenario.events / seconds, max(0.0, recorded - end), spent)


def _wait_recorded(stage: Stage, contender: Contender, topic: Topic) -> float:
    deadline = time.monotonic() + PATIENCE
    while not contender.recorded(stage, topic):
        if time.monotonic() > deadline:
            raise StartFailed(f"{contender.name}: not everything is recorded after {PATIENCE:.0f} s")
        time.sleep(0.25)
    return time.monotonic()
