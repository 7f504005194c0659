"""Several controllers share the Leases of many streams evenly, also after they were restarted one after the other."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import pytest

from devenv.journal import STEPS
from tests.conftest import StartReplica
from tests.support.admission import policy
from tests.support.background import repeating
from tests.support.controller_stream import ControllerStream
from tests.support.eventually import eventually, throughout
from tests.support.kube import Kube

STREAMS = 20


@pytest.fixture
def streams(stream: ControllerStream) -> list[ControllerStream]:
    """Each with the name of the test's own and a number behind it, applied."""
    found = [replace(stream, stream=f"{stream.stream}-{number:02d}") for number in range(STREAMS)]
    for each in found:
        each.apply()
    return found


def leases_refused(kube: Kube, namespace: str) -> AbstractContextManager[None]:
    """No Lease of that namespace is written: a policy refuses, with 422."""
    return policy(kube, namespace, "leases", message="no Leases today", group="coordination.k8s.io")


def holders(stream: ControllerStream) -> Counter[str]:
    """How many of the namespace's Leases each controller has."""
    return Counter(spec.get("holderIdentity") or "nobody" for spec in stream.leases().values())


def shared(stream: ControllerStream, *controllers: str, within: float = 45) -> None:
    """Wait until these hold all Leases, as many each."""

    def even() -> bool:
        found = holders(stream)
        assert found.keys() == set(controllers) and found.total() == STREAMS, found
        assert max(found.values()) - min(found.values()) <= 1, found
        return True

    eventually(even, within, every=0.2)


@contextmanager
def working(streams: list[ControllerStream]) -> Iterator[Counter[str]]:
    """An update for the next stream every now and then; how many each stream got."""
    made: Counter[str] = Counter()
    turns = itertools.cycle(streams)

    def make() -> None:
        stream = next(turns)
        made[stream.stream] += 1
        stream.add("ana", made[stream.stream], f"{stream.stream}-{made[stream.stream]}")

    with repeating(make, 0.1):
        yield made


def test_leases_are_shared_evenly_and_a_rolling_restart_repeats_nothing(
    streams: list[ControllerStream], start_controller: StartReplica
) -> None:
    streams[0].rules(latency=0.1)
    first = start_controller("controller-a")
    assert holders(streams[0]) == {"controller-a": STREAMS}, "alone it does not wait for others"
    replicas = [first, start_controller("controller-b"), start_controller("controller-c")]
    everybody = [replica.name for replica in replicas]
    with working(streams) as made:
        shared(streams[0], *everybody)
        for replica in replicas:
            replica.stop()
            replica.start()
        shared(streams[0], *everybody)
    for each in streams:
        all_once(each, made[each.stream])


def all_once(stream: ControllerStream, count: int) -> None:
    stream.all_finished()
    expected = [("ana", number + 1) for number in range(count)]
    assert stream.violations(finished=expected, only=expected) == []
    assert max(Counter(call.key for call in stream.calls()).values()) == 1, "no call is repeated"


def test_a_stream_with_a_call_that_does_not_end_is_not_given_away(
    streams: list[ControllerStream], start_controller: StartReplica
) -> None:
    """An even share is not worth a call that is cut off: each stream stays where it was, and what comes is done."""
    slow = {"step": "profile", "action": "slow", "seconds": 14, "count": 1}
    streams[0].rules(*({"stream": each.stream, **slow} for each in streams))
    first = start_controller("controller-a")
    made = [(each, each.add(name=each.stream)) for each in streams]
    for each in streams:
        each.called(1)
    start_controller("controller-b")
    others = itertools.cycle(streams)
    meanwhile: list[tuple[ControllerStream, str]] = []

    def make() -> None:
        stream = next(others)
        meanwhile.append((stream, stream.add("bob", len(meanwhile), f"{stream.stream}-bob-{len(meanwhile)}")))

    with repeating(make, 0.02):
        eventually(lambda: "given=0" in first.log.read_text().rpartition("--- started")[2], 13)
    assert holders(streams[0]) == {"controller-a": STREAMS}
    for each, name in meanwhile:
        each.until(name, "Succeeded")
    for each, name in made:
        each.until(name, "Succeeded", within=20)
        assert [(call.gone, call.step) for call in each.calls("ana")] == [(False, step) for step in STEPS]


def test_who_may_not_have_a_lease_says_so_and_calls_nothing(
    stream: ControllerStream, kube: Kube, start_controller: StartReplica
) -> None:
    with leases_refused(kube, stream.namespace):
        stream.apply()
        controller = start_controller(wait=False)
        name = stream.add()

        def told() -> bool:
            condition = stream.condition()
            assert (condition.get("status"), condition.get("reason")) == ("False", "LeaseRefused"), condition
            return "no Leases today" in condition["message"]

        eventually(told, 20)
        controller.wait_ready()
        assert stream.calls() == []
        log = controller.log.read_text()
        assert log.count("Lease not acquired") == 1, "once, not twice a second"
        refused = kube.requests("leases")["POST", "422"]
        throughout(lambda: stream.calls() == [], 6)
        assert kube.requests("leases")["POST", "422"] - refused <= 4, "it is tried less often"
    stream.until(name, "Succeeded", within=20)
    eventually(lambda: stream.condition()["reason"] == "Processing")


def test_a_lease_whose_renewal_is_refused_lapses_and_comes_back(
    stream: ControllerStream, kube: Kube, start_controller: StartReplica
) -> None:
    stream.rules({"action": "slow", "seconds": 1})
    stream.apply()
    start_controller("controller-a")
    stream.held_by("controller-a")
    stream.add("ana", 1)
    stream.called(1)
    with leases_refused(kube, stream.namespace):
        eventually(lambda: stream.condition().get("reason") == "LeaseRefused", 40)
        calls = stream.calls()
        name = stream.add("bob", 1)
        throughout(lambda: stream.calls() == calls, 2)
    stream.until(name, "Succeeded", within=20)
    assert stream.violations(finished=[("ana", 1), ("bob", 1)]) == []
