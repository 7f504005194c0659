"""The controller's main path on a real API server: order, checkpoints across a SIGKILL, the cost of an event, speed."""

from __future__ import annotations

import re
import time
from collections import Counter
from datetime import UTC, datetime
from itertools import accumulate
from urllib.parse import urlsplit

import psutil

from controller.api.timestamps import from_text
from devenv.journal import STEPS, Call
from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream, all_steps, both_checkpoints, steps
from tests.support.eventually import eventually
from tests.support.kube import Kube

pytestmark = both_checkpoints

#: Seconds by which a delay may be late beyond its tenth, at full load.
LATE = 3


def test_one_update_goes_through_its_three_steps(stream: ControllerStream, start_controller: StartReplica) -> None:
    start_controller()
    stream.apply()
    name = stream.add("ana", 1)
    status = stream.until(name, "Succeeded")
    profile, permissions, resources = stream.calls()
    assert profile.body == {"user": "ana", "profile": "dev"}
    assert permissions.body == {"userId": profile.given_id, "permissions": "all"}
    assert resources.body == {"userId": profile.given_id, "roleId": permissions.given_id, "resources": "all"}
    assert [step["name"] for step in status["steps"]] == list(STEPS)
    assert [step["result"] for step in status["steps"]] == [
        {"userId": profile.given_id},
        {"roleId": permissions.given_id},
        {},
    ]
    (condition,) = status["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Succeeded", "True", "Succeeded")
    uid = stream.get(name)["metadata"]["uid"]
    assert [call.key for call in stream.calls()] == [f"{stream.namespace}/{name}/{uid}/{step}/0" for step in STEPS]
    assert {call.source for call in stream.calls()} == {"manual"}


def test_each_users_updates_run_in_order_and_users_side_by_side(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    users = [f"user{number}" for number in range(120)]
    stream.rules({"user": "user0", "step": "profile", "action": "busy", "retryAfter": 1, "count": 3}, latency=0.1)
    stream.apply()
    start_controller()
    made = stream.records(users, 5, datetime.now(UTC))
    stream.all_finished(60)
    assert stream.violations(finished=made, only=made, busy_delay=1) == []
    assert most_at_once(stream.calls()) > 10


def most_at_once(calls: list[Call]) -> int:
    """Calls that ran at the same time."""
    changes = sorted([(call.number, 1) for call in calls] + [(call.end, -1) for call in calls if call.end])
    return max(accumulate(change for _, change in changes))


def test_a_kill_in_the_middle_loses_and_repeats_nothing_that_was_recorded(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    users = [f"user{number}" for number in range(60)]
    stream.rules({"user": "user0", "step": "permissions", "action": "busy", "count": 1}, latency=0.05)
    stream.apply(every={"busyDelaySeconds": 20})  # longer than it takes to create all updates on a busy machine
    controller = start_controller("controller-killed")
    made = stream.records(users, 4, datetime.now(UTC))
    eventually(lambda: stream.reason(stream.record_name(0)) == "DownstreamBusy", 10)
    eventually(lambda: sum(phase == "Succeeded" for phase in stream.phases().values()) > 40, 30)
    controller.kill()
    killed = time.time_ns()
    recorded = {(name, step["name"]) for name in stream.phases() for step in stream.status(name).get("steps", ())}
    due = from_text(stream.status(stream.record_name(0))["nextAttemptTime"])
    before = len(stream.calls())
    controller.start()
    stream.all_finished(90)
    calls = stream.calls()
    names = {(call.user, call.sequence): stream.record_name(call.sequence or 0) for call in calls}
    again = {(names[call.user, call.sequence], call.step) for call in calls[before:]}
    assert not again & recorded, "a recorded step was called again"
    assert stream.violations(finished=made, only=made, crashes=[killed], busy_delay=20) == []
    delayed = [call for call in calls if (call.user, call.sequence, call.step) == ("user0", 0, "permissions")]
    assert len(delayed) == 2
    assert 0 <= delayed[1].time_ns / 1e9 - due.timestamp() < 0.6 + LATE


def test_an_unrecorded_call_is_repeated_with_its_key(stream: ControllerStream, start_controller: StartReplica) -> None:
    stream.rules({"step": "permissions", "action": "hang", "count": 1})
    stream.apply()
    controller = start_controller("controller-hanging")
    name = stream.add()
    stream.called(2)
    eventually(lambda: len(stream.status(name).get("steps", ())) == 1)  # Coalesced: while the next step runs
    controller.kill()
    controller.start()
    stream.until(name, "Succeeded", within=15)
    assert [call.step for call in stream.calls()] == ["profile", "permissions", "permissions", "resources"]
    assert stream.calls()[1].key == stream.calls()[2].key
    assert stream.violations() == []


def test_a_delay_survives_a_restart(stream: ControllerStream, start_controller: StartReplica) -> None:
    stream.rules({"step": "profile", "action": "busy", "count": 1})
    stream.apply(every={"busyDelaySeconds": 3})
    controller = start_controller("controller-delayed")
    name = stream.add()
    status = stream.until(name, "Waiting", "DownstreamBusy")
    due = from_text(status["nextAttemptTime"]).timestamp()
    assert (status["busyCount"], status["attempts"]) == (1, 0)
    controller.kill()
    controller.start()
    stream.until(name, "Succeeded", within=15)
    assert 0 <= stream.calls()[1].time_ns / 1e9 - due <= 0.3 + LATE


def writes(kube: Kube) -> Counter[str]:
    """Writes of UserUpdates by verb, those of statuses apart, as the API server counts its requests."""
    counts: Counter[str] = Counter()
    for line in kube.client.get("/metrics").text.splitlines():
        if line.startswith("apiserver_request_total{") and 'resource="userupdates"' in line:
            found = dict(re.findall(r'(\w+)="([^"]*)"', line))
            if found["verb"] not in ("GET", "LIST", "WATCH"):
                verb = "/".join(filter(None, (found["verb"], found["subresource"])))
                counts[verb] += int(float(line.rsplit(" ", 1)[1]))
    return counts


def test_what_an_event_costs(
    stream: ControllerStream, start_controller: StartReplica, kube: Kube, checkpoints: str
) -> None:
    """EveryStep: a create and three patches. Coalesced: a create and one, or two where a step takes its time."""
    stream.rules({"user": "busy", "action": "busy", "count": 1})
    stream.apply(every={"busyDelaySeconds": 0.2})
    start_controller()
    stream.until(stream.add("warm", 1), "Succeeded")
    before = writes(kube)
    made = stream.records([f"user{number}" for number in range(10)], 10, datetime.now(UTC))
    stream.all_finished()
    queued = writes(kube) - before
    assert queued["POST"] == len(made), "waiting in the queue costs none"
    least, most = {"EveryStep": (3, 3), "Coalesced": (1, 2)}[checkpoints]
    assert least * len(made) <= queued["PATCH/status"] <= most * len(made)
    assert queued.keys() == {"POST", "PATCH/status"}
    before = writes(kube)
    stream.until(stream.record("busy", len(made), datetime.now(UTC)), "Succeeded")
    # Each of the three steps was busy once: each of these answers is written at once, with what is unwritten.
    assert writes(kube) - before == {"POST": 1, "PATCH/status": 3 + least}


def test_one_user_runs_twenty_events_a_second(stream: ControllerStream, start_controller: StartReplica) -> None:
    stream.apply(suspend={"processing": True})
    start_controller()
    made = stream.records(["ana"], 100, datetime.now(UTC))
    stream.change(suspend={"processing": False})
    stream.all_finished()
    calls = stream.calls()
    assert steps(calls) == all_steps("ana", *range(100))
    assert stream.violations(finished=made, only=made) == []
    begins = [call.time_ns / 1e9 for call in calls if call.step == "profile"]
    # The best stretch of 20: the machine may be busy with other things for a while.
    assert min(later - earlier for earlier, later in zip(begins, begins[20:], strict=False)) <= 1


def test_a_start_beside_many_waiting_users_opens_few_connections(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    stream.apply()
    stream.records([f"user{number}" for number in range(1000)], 1, datetime.now(UTC))
    controller = start_controller(wait=False)
    port, most = urlsplit(stream.environment.downstream_url).port, 0

    def connections() -> int:
        found = psutil.Process(controller.pid).net_connections("tcp")
        return sum(bool(connection.raddr) and connection.raddr.port == port for connection in found)

    eventually(connections, 60, every=0.01)
    until = time.monotonic() + 8
    while time.monotonic() < until:
        most = max(most, connections())
    stream.all_finished(60)
    # Were all woken at once, it would be most of a thousand. How many calls a busy machine does not answer within
    # HANGING_SECONDS, so that the next ones begin beside them, depends on it: 309 to 334 at a load of three a core.
    assert 0 < most < 500


def test_a_start_beside_many_whose_calls_hang_gets_to_the_others(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    stream.rules({"user": "hanging*", "action": "hang"})
    stream.apply()
    stream.records([*(f"hanging{number}" for number in range(300)), "zoe"], 1, datetime.now(UTC))
    start_controller()
    stream.until(stream.record_name(300), "Succeeded")
    assert list(stream.phases().values()).count("Succeeded") == 1
