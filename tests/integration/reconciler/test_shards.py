"""Several controllers share one stream: its users are divided among them, and divided anew with work in flight."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from controller.api import names, timestamps
from controller.core.sharding import shards
from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream, all_steps, steps
from tests.support.eventually import Stopwatch, eventually
from tests.support.kube import MERGE_PATCH
from tests.support.replicas import Replica

USERS = [f"user{number}" for number in range(24)]
#: One user of each of four shards.
OF_SHARD = [next(user for user in USERS if shard.owns(user)) for shard in shards(4)]


def calls_made(replica: Replica, stream: ControllerStream) -> int:
    pattern = rf'enrichment_controller_calls_total\{{[^}}]*namespace="{stream.namespace}"[^}}]*\}} (\S+)'
    return int(sum(float(count) for count in re.findall(pattern, replica.metrics())))


def most_at_once(stream: ControllerStream, step: str) -> int:
    """Calls of a step that ran at the same time."""
    events = [(call.time_ns, 1) for call in stream.calls() if call.step == step]
    events += [(call.end_time_ns or 0, -1) for call in stream.calls() if call.step == step]
    running = most = 0
    for _, change in sorted(events):
        running += change
        most = max(most, running)
    return most


def status(stream: ControllerStream) -> dict[str, Any]:
    return dict(stream.kube.get(stream.namespace, "updatestreams", stream.stream).get("status") or {})


def test_three_controllers_share_four_shards(stream: ControllerStream, start_controller: StartReplica) -> None:
    replicas = [start_controller(f"controller-{letter}") for letter in "abc"]
    stream.rules(latency=0.1)
    stream.apply(shards=4, permissions={"concurrency": 8})
    assert set(stream.all_held(4)) == {replica.name for replica in replicas}
    made = stream.records(USERS, 5, datetime.now(UTC))
    stream.all_finished()
    assert stream.violations(finished=made, only=made) == []
    counts = [calls_made(replica, stream) for replica in replicas]
    assert min(counts) > 0 and sum(counts) == len(stream.calls()) == 3 * len(made), counts
    assert most_at_once(stream, "permissions") <= 8

    def told() -> bool:
        found = status(stream)
        assert [entry["holder"] for entry in found["shards"]] == stream.holders(4)
        succeeded = [int(entry["counts"]["succeeded"]) for entry in found["shards"]]
        return bool(sum(succeeded) == found["counts"]["succeeded"] == len(made))

    eventually(told)
    assert stream.condition()["status"] == "True"


def test_a_killed_controllers_shards_go_on(stream: ControllerStream, start_controller: StartReplica) -> None:
    replicas = {name: start_controller(name) for name in ("controller-a", "controller-b")}
    stream.rules(latency=0.1)
    stream.apply(shards=4)
    holders = Counter(stream.all_held(4))
    assert holders.keys() == replicas.keys()
    made = stream.records(USERS, 10, datetime.now(UTC))
    eventually(lambda: "Succeeded" in stream.phases().values())
    killed, successor = replicas
    replicas[killed].kill()
    at, watch = time.time(), Stopwatch()
    eventually(lambda: stream.holders(4) == [successor] * 4, 20)
    assert watch.seconds < 15
    stream.all_finished(40)
    assert stream.violations(finished=made, only=made, crashes=[int(at * 1e9)]) == []
    metrics = replicas[successor].metrics()
    assert f'lease_held{{namespace="{stream.namespace}",stream="{stream.stream}"}} 4.0' in metrics


def test_a_stopped_controllers_shards_go_on_at_once(stream: ControllerStream, start_controller: StartReplica) -> None:
    replicas = {name: start_controller(name) for name in ("controller-a", "controller-b")}
    stream.rules(latency=0.1)
    stream.apply(shards=4)
    assert set(stream.all_held(4)) == replicas.keys()
    made = stream.records(USERS, 5, datetime.now(UTC))
    eventually(lambda: "Succeeded" in stream.phases().values())
    stopped, successor = replicas
    replicas[stopped].stop()
    gone = Stopwatch()
    eventually(lambda: stream.holders(4) == [successor] * 4)
    assert gone.seconds < 4, "two seconds, and what a busy machine adds"
    stream.all_finished()
    assert stream.violations(finished=made, only=made) == [], "nothing comes twice"


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 2), (2, 3), (4, 1)])
def test_a_stream_is_divided_anew_with_work_in_flight(
    stream: ControllerStream, start_controller: StartReplica, before: int, after: int
) -> None:
    for name in ("controller-a", "controller-b"):
        start_controller(name)
    stream.rules(latency=0.1)
    stream.apply(shards=before)
    stream.all_held(before)
    made = stream.records(USERS, 10, datetime.now(UTC))
    eventually(lambda: list(stream.phases().values()).count("Succeeded") >= 20)
    stream.change(shards=after)
    stream.all_held(after)
    assert not all(phase == "Succeeded" for phase in stream.phases().values()), "there was work in flight"
    assert not any(stream.holders(before)), "the old Leases are given away"
    stream.all_finished(40)
    assert steps(stream.calls(USERS[0])) == all_steps(USERS[0], *(offset for user, offset in made if user == USERS[0]))
    assert stream.violations(finished=made, only=made) == [], "no step is repeated, the order is kept"
    want = list(range(after)) if after > 1 else []
    eventually(lambda: [entry["shard"] for entry in status(stream).get("shards") or ()] == want)
    eventually(lambda: status(stream)["counts"]["succeeded"] == len(made))


def labels(stream: ControllerStream, name: str) -> dict[str, str]:
    return dict(stream.get(name)["metadata"].get("labels") or {})


def rightly_labelled(stream: ControllerStream, made: dict[str, str]) -> bool:
    """Updates by name, with their users."""
    found = {name: labels(stream, name).get(names.BUCKET_LABEL) for name in made}
    assert found == {name: str(names.bucket(user)) for name, user in made.items()}
    return True


def label(stream: ControllerStream, name: str, value: str) -> None:
    body = {"metadata": {"labels": {names.BUCKET_LABEL: value}}}
    stream.kube.patch(stream.namespace, "userupdates", name, body)


def test_updates_made_by_hand_get_their_labels(stream: ControllerStream, start_controller: StartReplica) -> None:
    start_controller()
    stream.apply(shards=4)
    made = {stream.add(user): user for user in OF_SHARD}
    stream.all_finished()
    eventually(lambda: rightly_labelled(stream, made))
    assert {name: labels(stream, name).get(names.USER_LABEL) for name in made} == made
    assert stream.violations(finished=[(user, 1) for user in OF_SHARD]) == []


def test_an_update_made_by_hand_gets_the_label_of_its_user(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    """By it people select, and kubectl shows whose it is; one that somebody has set stays. None is for a shard."""
    stream.apply()
    before, marked = stream.add("ana/1", name="before"), stream.add("bo", name="marked")
    mine = {"metadata": {"labels": {names.USER_LABEL: "mine"}}}
    stream.kube.patch(stream.namespace, "userupdates", marked, mine)
    start_controller()
    want = {before: names.user_label("ana/1"), marked: "mine", stream.add("cy"): "cy"}
    stream.all_finished()
    wanted = {name: {names.USER_LABEL: label} for name, label in want.items()}
    eventually(lambda: {name: labels(stream, name) for name in want} == wanted)


@pytest.mark.parametrize("wrong", ["the next shard's", "no bucket's"])
def test_a_wrong_label_changes_nothing(stream: ControllerStream, start_controller: StartReplica, wrong: str) -> None:
    def value(user: str) -> str:
        return str((names.bucket(user) + 1) % 64) if wrong == "the next shard's" else "none-of-them"

    controller = start_controller("controller-labels")
    stream.rules({"step": "permissions", "action": "busy", "count": 1})
    stream.apply(shards=4, permissions={"busyDelaySeconds": 2})
    made = {stream.add(user, number): user for user in OF_SHARD for number in (1, 2)}
    for user in OF_SHARD:
        stream.until(f"{user}-1", "Waiting", "DownstreamBusy")
    controller.kill()
    for name, user in made.items():
        label(stream, name, value(user))
    controller.start()
    eventually(lambda: rightly_labelled(stream, made), within=15)
    stream.all_finished()
    expected = [(user, number) for user in OF_SHARD for number in (1, 2)]
    assert stream.violations(finished=expected, busy_delay=2) == []


def put_lease(stream: ControllerStream, name: str, *, labelled: bool) -> Callable[[str], None]:
    """A Lease of somebody else; the function renews it, or gives it away where it is given no holder."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{stream.namespace}/leases"
    now = timestamps.to_text(datetime.now(UTC))
    body: dict[str, Any] = {
        "metadata": {"name": name, "labels": {names.STREAM_LABEL: stream.stream} if labelled else {}},
        "spec": {"holderIdentity": "stale", "leaseDurationSeconds": 12, "acquireTime": now, "renewTime": now},
    }
    stream.kube.call("POST", path, body)

    def renew(holder: str) -> None:
        spec = {"holderIdentity": holder, "renewTime": timestamps.to_text(datetime.now(UTC))}
        stream.kube.call("PATCH", f"{path}/{name}", {"spec": spec}, headers=MERGE_PATCH)

    return renew


@pytest.mark.parametrize(
    ("shards_of_stale", "count", "marked"),
    [(3, 2, True), (1, 2, True), (2, 1, True), (1, 2, False), (1, 1, False)],
    ids=["3 to 2", "1 to 2", "2 to 1", "an earlier version, 1 to 2", "an earlier version"],
)
def test_who_divides_the_stream_otherwise_keeps_others_from_calling(
    stream: ControllerStream, start_controller: StartReplica, shards_of_stale: int, count: int, marked: bool
) -> None:
    renew = put_lease(stream, names.lease_name(stream.stream, 0, shards_of_stale), labelled=marked)
    stream.apply(shards=count)
    name = stream.add()
    start_controller()
    began = time.monotonic()

    def over() -> bool:
        renew("stale")
        assert stream.calls() == []
        return time.monotonic() - began > 15

    eventually(over, within=20, every=0.5)
    renew("")
    stream.until(name, "Succeeded", within=5)


def test_who_divides_the_stream_otherwise_and_is_dead_is_waited_for_no_longer_than_its_lease(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    put_lease(stream, names.lease_name(stream.stream, 2, 3), labelled=True)
    stream.apply(shards=2)
    name = stream.add()
    start_controller()
    began, watch = time.monotonic(), Stopwatch()
    stream.until(name, "Succeeded", within=20)
    assert time.monotonic() - began > 10
    assert watch.seconds < 16


def test_those_who_stand_by_ask_for_nothing(stream: ControllerStream, start_controller: StartReplica) -> None:
    stream.apply(shards=16)
    start_controller()
    stream.all_held(16)
    start_controller()
    eventually(lambda: sorted(Counter(stream.all_held(16)).values()) == [8, 8], 30)
    before, began = stream.kube.requests("leases"), time.monotonic()
    eventually(lambda: time.monotonic() - began > 5)
    seen = stream.kube.requests("leases") - before
    fives = (time.monotonic() - began) / 5
    assert seen["GET", "200"] == 0
    assert seen["LIST", "200"] <= 4 * fives, "of the processes' own, each five seconds; of the streams' the watch tells"
    assert 30 <= seen["PUT", "200"] <= 60 * fives, "each is renewed every two seconds"


def test_a_controller_that_comes_later_gets_its_shards(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    stream.rules(latency=0.05)
    stream.apply(shards=4)
    first = start_controller("controller-a")
    assert stream.all_held(4) == [first.name] * 4
    made = stream.records(USERS, 5, datetime.now(UTC))
    start_controller("controller-b")
    eventually(lambda: sorted(Counter(stream.all_held(4)).values()) == [2, 2], 30)
    stream.all_finished()
    assert stream.violations(finished=made, only=made) == [], "nothing comes twice"


def test_a_suspension_is_told_of_once(stream: ControllerStream, start_controller: StartReplica) -> None:
    start_controller()
    stream.apply(shards=4)
    stream.all_held(4)
    eventually(lambda: len(status(stream).get("shards") or ()) == 4)
    stream.change(suspend={"processing": True})
    eventually(lambda: stream.condition().get("reason") == "Suspended")

    def told() -> bool:
        found = [reason for name, _, reason in stream.events() if name == stream.stream]
        assert found in (["Suspended"], ["Processing", "Suspended"]), found
        return True

    eventually(told)


def test_the_leases_of_a_stream_go_with_it_and_no_others(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    for letter in "ab":
        start_controller(f"controller-{letter}")
    stream.apply(shards=2)
    stream.all_held(2)
    stream.change(shards=1)
    stream.all_held(1)
    made = {names.lease_name(stream.stream, shard, count) for count in (1, 2) for shard in range(count)}
    held = stream.acquired()
    other = replace(stream, stream=f"{stream.stream}-x")  # its name begins like the first one's
    other.apply()
    other.all_held(1)
    stream.kube.delete(stream.namespace, "updatestreams", stream.stream)
    eventually(lambda: not stream.leases().keys() & made, 40)
    assert other.holders(1) != [""]
    stream.apply()
    stream.all_held(1)
    assert stream.acquired() > held
    stream.until(stream.add(), "Succeeded")
