"""Three controllers, of which the one at work is killed, frozen, cut off or restarted while others stand by.

How long that stops the work is read from the Lease and the downstream's journal, and printed: `pytest -rP` shows it.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime

import pytest

from devenv.environment import Environment
from devenv.journal import Call
from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream
from tests.support.eventually import eventually, throughout
from tests.support.replicas import Replica, cut_off

USERS = [f"user{number}" for number in range(20)]
SECOND = 1_000_000_000
#: Seconds from the end of the one to the first call of the next.
WITHIN = 15


@pytest.fixture
def three(stream: ControllerStream, start_controller: StartReplica) -> list[Replica]:
    """Three controllers, the first of which holds the stream's Lease."""
    stream.apply()
    first = start_controller("controller-a")
    stream.held_by("controller-a")
    return [first, start_controller("controller-b"), start_controller("controller-c")]


def at_work(stream: ControllerStream) -> None:
    """Wait until some updates are done, and many are not."""
    eventually(lambda: "Succeeded" in stream.phases().values())


def holds(stream: ControllerStream, replica: Replica) -> str | None:
    """What its metrics say of the Lease: 1.0, 0.0, or None where it has never held it."""
    name = f'lease_held{{namespace="{stream.namespace}",stream="{stream.stream}"}} '
    found = [line.rpartition(" ")[2] for line in replica.metrics().splitlines() if name in line]
    return found[0] if found else None


def taken_over(stream: ControllerStream, since: int, what: str, before: str) -> int:
    """Wait until another one calls; the wall time in ns at which it took the Lease."""

    def other() -> bool:
        return stream.lease()["holderIdentity"] not in ("", before)

    eventually(other, 20)
    taken = stream.acquired()
    first = eventually(lambda: [call for call in stream.calls() if call.time_ns > taken], 10)[0]
    lease, call = (taken - since) / SECOND, (first.time_ns - since) / SECOND
    print(f"{what}: another one had the Lease after {lease:.1f} s, and called after {call:.1f} s")
    assert call < WITHIN
    return taken


def repeats(calls: list[Call]) -> Counter[str]:
    """How many calls of each user repeat a step."""
    return Counter(call.user for call in calls) - Counter(user for user, _ in {(call.user, call.key) for call in calls})


def test_of_three_controllers_one_takes_over_from_a_killed_one(stream: ControllerStream, three: list[Replica]) -> None:
    stream.rules(latency=0.1)
    made = stream.records(USERS, 8, datetime.now(UTC))
    at_work(stream)
    assert [holds(stream, each) for each in three] == ["1.0", None, None]
    three[0].kill()
    taken = taken_over(stream, time.time_ns(), "killed", "controller-a")
    stream.all_finished(60)
    assert stream.violations(finished=made, only=made, crashes=[taken]) == []
    again = repeats(stream.calls())
    print(f"killed: {again.total()} calls repeated, of {len(made) * 3}")
    assert set(again.values()) <= {1}, "of each user the one that was in flight"
    assert stream.lease()["leaseTransitions"] == 2, "one of the two that stood by"


@pytest.mark.parametrize("seconds", [20, pytest.param(60, marks=pytest.mark.long)])
def test_a_frozen_controller_calls_nothing_when_it_thaws(
    stream: ControllerStream, three: list[Replica], seconds: int
) -> None:
    slow = {"user": "slow", "step": "permissions", "action": "slow", "seconds": 18, "count": 1}
    stream.rules(slow, latency=0.3)
    made = stream.records([*USERS, "slow"], 10, datetime.now(UTC))
    at_work(stream)
    eventually(lambda: len(stream.calls("slow")) == 2)
    frozen = time.time_ns()
    three[0].freeze()
    taken = taken_over(stream, frozen, f"frozen for {seconds} s", "controller-a")
    eventually(lambda: time.time_ns() > frozen + seconds * SECOND, seconds + 5)
    thawed = time.time_ns()
    three[0].thaw()
    eventually(lambda: holds(stream, three[0]) == "0.0")
    stream.all_finished(60)
    # What was in flight then was answered unheard, and is repeated with its key; nothing else is out of place.
    assert stream.violations(finished=made, only=made, crashes=[taken], freezes=[(frozen, thawed)]) == []
    assert stream.acquired() == taken, "it stands by"


def test_a_controller_cut_off_from_the_api_server_closes_its_calls_and_stands_by_when_it_is_back(
    stream: ControllerStream, environment: Environment, start_controller: StartReplica
) -> None:
    stream.rules({"user": "hanging", "step": "permissions", "action": "hang", "count": 1}, latency=0.1)
    stream.apply()
    with cut_off(environment, "controller", "controller-cut-off") as (holder, link):
        holder.start()
        stream.held_by(holder.name)
        others = [start_controller("controller-b"), start_controller("controller-c")]
        made = stream.records([*USERS, "hanging"], 8, datetime.now(UTC))
        at_work(stream)
        eventually(lambda: len(stream.calls("hanging")) == 2)
        held = time.time_ns()
        link.hold()
        taken = taken_over(stream, held, "cut off", holder.name)
        (cut,) = [call for call in stream.calls() if call.gone]
        assert cut.end_time_ns
        print(f"cut off: its calls were closed after {(cut.end_time_ns - held) / SECOND:.1f} s")
        before = [call.end_time_ns for call in stream.calls() if call.time_ns < taken]
        assert all(ended and ended < taken for ended in before), "nothing of it runs on under its successor"
        stream.all_finished(60)
        assert stream.violations(finished=made, only=made, crashes=[taken]) == []
        calls = stream.calls()
        link.hold(False)
        assert holds(stream, holder) == "0.0"
        for other in others:
            other.stop()
        stream.held_by(holder.name, within=20)
        assert stream.calls() == calls, "what it had in hand was the other's"
        stream.until(stream.add("afterwards"), "Succeeded")


def test_a_rolling_restart_of_three_controllers_repeats_nothing(stream: ControllerStream, three: list[Replica]) -> None:
    stream.rules(latency=0.05)
    left, stops, handed_over = list(three), [], 0
    with stream.coming(USERS[:10], every=0.3) as made:
        at_work(stream)
        while left:
            holder = stream.lease()["holderIdentity"]
            replica = next((each for each in left if each.name == holder), left[0])
            left.remove(replica)
            stops.append(time.time_ns())
            replica.stop()
            if replica.name == holder:
                taken = taken_over(stream, stops[-1], f"{holder} stopped", holder)
                assert taken - stops[-1] < 2 * SECOND, "by the Lease's own time"
                handed_over += 1
            replica.start()
    stream.all_finished(60)
    assert handed_over >= 2
    # What is called is recorded before the Lease is given away. A call gets a second for that, then it is cut.
    assert stream.violations(finished=made, only=made) == []
    cut = [call for call in stream.calls() if call.gone]
    for call in cut:
        assert call.end_time_ns
        assert call.end_time_ns - max(stop for stop in stops if stop < call.end_time_ns) >= SECOND
    again = repeats(stream.calls())
    print(f"rolling restart: {again.total()} calls repeated, of {len(made) * 3}; {len(cut)} were cut after a second")
    assert again.total() == len(cut)


def test_who_takes_over_tells_nothing_before_it_knows(stream: ControllerStream, start_controller: StartReplica) -> None:
    """For two seconds the stream had no finished updates and no suspended users, and all was well with it."""
    stream.apply()
    first = start_controller("controller-a")
    stream.held_by("controller-a")
    stream.until(stream.add("ana", 1), "Succeeded")
    stream.until(stream.add("bob", 1, suspend=True), "Waiting", "Suspended")

    def told() -> tuple[int, int, int]:
        status = stream.kube.get(stream.namespace, "updatestreams", stream.stream).get("status") or {}
        counts, users = status.get("counts") or {}, status.get("users") or {}
        return counts.get("succeeded", 0), counts.get("waiting", 0), users.get("suspended", 0)

    eventually(lambda: told() == (1, 1, 1))
    start_controller("controller-b")
    throughout(lambda: told() == (1, 1, 1), seconds=3)  # it looks at what there is to tell now, and stands by
    first.stop()
    stream.held_by("controller-b")
    throughout(lambda: told() == (1, 1, 1), seconds=3)
