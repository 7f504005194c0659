"""Events through Kafka to Succeeded: the real bridge, the real controller, and kubectl to look at it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from devenv.environment import Environment
from devenv.journal import Call, Expectations, check, read_calls
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream
from tests.support.eventually import eventually
from tests.support.kube import Kube

EVENT = {"profile": "dev", "permissions": "all", "resources": "all"}
BUSY_DELAY = 5.0


@pytest.fixture
def stream(kube: Kube, environment: Environment, namespace: str, topic: str) -> Iterator[BridgeStream]:
    """A stream of its own; the downstream is not ready for userid1 at the first call."""
    busy = {"stream": topic, "user": "userid1", "step": "profile", "action": "busy", "status": 200, "count": 1}
    _control(environment, "PUT", [busy])
    inside = environment.inside
    servers = environment.bootstrap_servers
    stream = BridgeStream(kube, servers, namespace, topic, name=topic, inside=inside.bootstrap_servers)
    url = inside.downstream_url
    stream.apply(steps={step: {"url": f"{url}/{step}"} for step in ("profile", "permissions", "resources")})
    yield stream
    _control(environment, "DELETE")


def test_events_of_two_users_are_applied(
    stream: BridgeStream,
    environment: Environment,
    namespace: str,
    start_bridge: StartReplica,
    start_controller: StartReplica,
) -> None:
    start_bridge()
    start_controller()
    second = {**EVENT, "profile": "prod"}
    stream.produce([("userid1", EVENT), ("userid2", EVENT), ("userid1", second)])
    eventually(lambda: len(stream.updates()) == 3, 15)

    def kubectl(*arguments: str) -> str:
        return environment.kubectl("-n", namespace, *arguments)

    kubectl("wait", "--for=condition=Succeeded", "uu", "--all", "--timeout=40s")
    rows = [line.split()[1:] for line in kubectl("get", "uu", "--no-headers").splitlines()]
    assert [row[:-1] for row in rows] == [
        ["userid1", "0", "Succeeded", "0", "Succeeded"],
        ["userid2", "1", "Succeeded", "0", "Succeeded"],
        ["userid1", "2", "Succeeded", "0", "Succeeded"],
    ]
    calls = _calls(environment, stream.name)
    _check_ids(stream.updates(), calls)
    assert check(calls, Expectations(finished=[("userid1", 0), ("userid2", 1), ("userid1", 2)])) == []
    assert [(call.sequence, call.step) for call in calls if call.user == "userid1"] == [
        (0, "profile"),
        *((0, step) for step in ("profile", "permissions", "resources")),
        *((2, step) for step in ("profile", "permissions", "resources")),
    ]
    first, again = [call for call in calls if call.user == "userid1"][:2]
    assert first.busy and first.key == again.key
    assert BUSY_DELAY <= _seconds(first, again) <= BUSY_DELAY * 1.1 + 1
    others = [call.end_time_ns or 0 for call in calls if call.user == "userid2"]
    assert max(others) < again.time_ns, "userid2 waited for userid1"


def _check_ids(updates: list[dict[str, Any]], calls: list[Call]) -> None:
    """What a step was answered is in the status, and in the next request."""
    for update in updates:
        steps = {step["name"]: step["result"] for step in update["status"]["steps"]}
        sent = {call.step: call for call in calls if call.sequence == update["spec"]["sequence"]}
        user, role = steps["profile"]["userId"], steps["permissions"]["roleId"]
        assert sent["profile"].answer["userId"] == user
        assert sent["permissions"].body == {"userId": user, "permissions": "all"}
        assert sent["resources"].body == {"userId": user, "roleId": role, "resources": "all"}


def _seconds(one: Call, two: Call) -> float:
    return (two.time_ns - (one.end_time_ns or 0)) / 1e9


def _calls(environment: Environment, stream: str) -> list[Call]:
    with urllib.request.urlopen(f"{environment.downstream_url}/journal", timeout=10) as answer:
        return [call for call in read_calls(map(json.loads, answer)) if call.stream == stream]


def _control(environment: Environment, method: str, rules: list[dict[str, Any]] | None = None) -> None:
    data = None if rules is None else json.dumps(rules).encode()
    url = f"{environment.downstream_url}/control/rules"
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=10):
        pass
