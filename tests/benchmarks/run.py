"""One contender on a topic of its own: warmed up, measured, and gone again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from devenv.errors import StartFailed
from tests.benchmarks.contenders import Contender, Ours
from tests.benchmarks.events import Producer, users_in_turns
from tests.benchmarks.meter import figures
from tests.benchmarks.scenario import Scenario
from tests.benchmarks.stage import Stage, Topic

#: Seconds without an event done after which a run is given up.
PATIENCE = 60.0
#: Busy users are busy until the run is over.
BUSY_SECONDS = 3600.0


class Run:
    """Between its start and its end. Users `u0` … are the busy ones, those behind them the measured ones."""

    def __init__(self, stage: Stage, contender: Contender, scenario: Scenario, topic: Topic) -> None:
        self.stage = stage
        self.contender = contender
        self.scenario = scenario
        self.topic = topic
        self.producer = Producer(stage.environment.bootstrap_servers, topic.name)
        self._sent = 0

    def behave(self) -> None:
        """The downstream forgets all calls."""
        busy = {"busyUsers": self.scenario.busy_users, "busySeconds": BUSY_SECONDS}
        self.stage.control(latencySeconds=self.scenario.latency_seconds, **busy)

    def warm_up(self) -> None:
        """Start the contender on a small backlog of the same users, and wait until it is through."""
        self.behave()
        self.producer.burst(self.next_events(self.scenario.warm_up))
        self.contender.start(self.stage, self.topic)
        self.wait_done(self.scenario.warm_up)
        self.wait_recorded()
        self.behave()

    def next_events(self, count: int) -> Iterator[tuple[int, str]]:
        """(number, user) of the measured users."""
        first, self._sent = self._sent, self._sent + count
        return users_in_turns(count, self.scenario.users, first, self.scenario.busy_users)

    def block(self) -> None:
        """One event for each of the busy users; returns when all were told so, and that is recorded."""
        busy = self.scenario.busy_users
        self.producer.burst((1_000_000 + number, f"u{number}") for number in range(busy))
        self.wait(lambda: int(self.stage.report()["busy"]) >= busy, f"{busy} users told busy")
        self.wait_recorded(busy)

    def wait_done(self, events: int) -> None:
        self.stage.wait_count(events, self.contender.processes, PATIENCE)

    def wait_recorded(self, left: int = 0) -> float:
        """The monotonic time at which no more than `left` events had something to be written."""
        self.wait(lambda: self.contender.recorded(self.stage, self.topic, left), "everything recorded")
        return time.monotonic()

    @contextmanager
    def metered(self, events: int) -> Iterator[dict[str, float]]:
        """Fills in what the time within cost for each of so many events."""
        found: dict[str, float] = {}
        meter = self.stage.meter(self.contender.processes)
        before = meter.before()
        yield found
        found.update(figures(before, meter.after(), events, self.contender.processes))

    def wait(self, there: Callable[[], object], what: str) -> None:
        """Raises StartFailed with what was waited for."""
        deadline = time.monotonic() + 2 * PATIENCE
        while not there():
            if time.monotonic() > deadline:
                tails = "\n".join(self.stage.environment.processes.tail(name) for name in self.contender.processes)
                raise StartFailed(f"{self.contender.name}: not {what} within {2 * PATIENCE:.0f} s.\n{tails}")
            time.sleep(0.25)


@contextmanager
def run(stage: Stage, contender: Contender, scenario: Scenario) -> Iterator[Run]:
    """A fresh topic; everything of the contender is gone afterwards."""
    with stage.topic() as topic:
        try:
            yield Run(stage, contender, scenario, topic)
        finally:
            contender.stop(stage)


def backlog(stage: Stage, contender: Contender, scenario: Scenario) -> dict[str, float]:
    """A burst of records, from the first one's sending to the last event's last call."""
    with run(stage, contender, scenario) as one:
        one.warm_up()
        return _burst(one)


def depth(stage: Stage, contender: Contender, scenario: Scenario) -> dict[str, float]:
    """The same beside so many unfinished updates of users that are told busy; memory before and with them."""
    with run(stage, contender, scenario) as one:
        one.warm_up()
        before = stage.meter(contender.processes).memory()
        one.block()
        with_them = stage.meter(contender.processes).memory()
        found = _burst(one, left=scenario.busy_users)
    for name, size in with_them.items():
        found[f"memory_mib_with_objects.{name}"] = size / 2**20
        found[f"memory_mib_without.{name}"] = before[name] / 2**20
        found[f"memory_kib_an_object.{name}"] = (size - before[name]) / 1024 / scenario.busy_users
    return found


def rate(stage: Stage, contender: Contender, scenario: Scenario) -> dict[str, float]:
    """Records at a fixed rate: milliseconds from the sending of each to its last call."""
    with run(stage, contender, scenario) as one:
        one.warm_up()
        if scenario.busy_users:
            one.block()
        first = one.scenario.warm_up
        with one.metered(scenario.events) as found:
            one.producer.at_rate(one.next_events(scenario.events), scenario.rate, threading.Event())
            one.wait_done(scenario.events)
        last = {int(number): at for number, at in stage.report()["last"].items()}
    taken = sorted((at - one.producer.sent[number]) * 1000 for number, at in last.items() if number >= first)
    return found | {"p50_ms": quantile(taken, 0.5), "p99_ms": quantile(taken, 0.99), "max_ms": taken[-1]}


def start(stage: Stage, contender: Contender, scenario: Scenario) -> dict[str, float]:
    """A controller starts while so many updates wait: seconds from its start to the first call."""
    with run(stage, contender, scenario) as one:
        one.producer.burst(one.next_events(scenario.events))
        assert isinstance(contender, Ours), "the peers have no process without the other"
        stage.environment.start("bridge")
        contender.apply(stage, one.topic)
        one.wait(lambda: stage.unfinished(one.topic.name) >= scenario.events, f"{scenario.events} updates made")
        one.behave()
        begun = time.monotonic()
        stage.environment.launch("controller")
        one.wait(lambda: stage.report()["first"], "one call made")
        first = float(stage.report()["first"])
    return {"seconds_to_first_call": first - begun}


def quantile(sorted_values: Sequence[float], share: float) -> float:
    """By the nearest rank: a value that was measured."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def _burst(one: Run, left: int = 0) -> dict[str, float]:
    events = one.scenario.events
    with one.metered(events) as found:
        begun = time.monotonic()
        one.producer.burst(one.next_events(events))
        one.wait_done(events)
        end = max(one.stage.report()["last"].values())
        recorded = one.wait_recorded(left)
    seconds = end - begun
    return found | {
        "events_per_second": events / seconds,
        "seconds": seconds,
        "seconds_to_record": max(0.0, recorded - end),
    }


PLAYS: Mapping[str, Callable[[Stage, Contender, Scenario], dict[str, float]]] = {
    "backlog": backlog,
    "depth": depth,
    "rate": rate,
    "start": start,
}
