"""What happens to the bridge and around it: nothing is lost, nothing is doubled, and the stream says what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from devenv.broker import commits_refused
from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.admission import policy
from tests.support.bridge_stream import BridgeStream, check_links, first_offsets, good, users
from tests.support.eventually import eventually, throughout
from tests.support.rights import Right, taken_away


def made(ingested: BridgeStream, count: int) -> None:
    """Wait until there are so many updates."""
    eventually(lambda: ingested.count() >= count, 30)


def test_commits_that_kafka_refuses_are_told_of_and_nobody_is_put_aside(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    start_bridge()
    ingested.apply(limits={"maxObjects": 5000, "maxPerUser": 100})
    ingested.produce(good(["ana"]))
    ingested.positioned(1)
    backlogs = ingested.kube.requests("userbacklogs")["POST", "201"]
    with commits_refused(ingested.bootstrap):
        ingested.reason("CommitsRefused")
        assert "Unknown broker error" in ingested.condition()["message"]
        ingested.produce(good(users(2000, 1)))
        # What is not created by then would be put aside, were it no outage.
        throughout(lambda: ingested.condition()["reason"] == "CommitsRefused", 12)
    ingested.positioned(2001, 60)
    assert ingested.condition()["status"] == "True"
    ingested.has_made(first_offsets(2001))
    assert ingested.kube.requests("userbacklogs")["POST", "201"] == backlogs


def test_what_may_not_be_read_before_the_first_create_is_told_of(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    with taken_away(ingested.kube, Right("bridge", "list", "userupdates")):
        start_bridge()
        ingested.apply()
        ingested.produce(good(["ana"]))
        ingested.reason("CreatesRefused")
        assert "forbidden" in ingested.condition()["message"]
    ingested.positioned(1)
    eventually(lambda: ingested.condition()["status"] == "True")


def test_killed_in_the_middle_each_record_is_one_update(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    bridge = start_bridge()
    ingested.apply(limits={"maxObjects": 5000, "maxPerUser": 100})
    ingested.produce(good(users(100, 10)))
    for want in (100, 400):
        made(ingested, want)
        bridge.kill()
        bridge.start()
    ingested.positioned(1000, 30)
    ingested.has_made(first_offsets(1000))


LONG = pytest.mark.long
POINTS = [
    pytest.param("bridge.create:5", marks=LONG),
    "bridge.created:5",
    pytest.param("bridge.created:60", marks=LONG),
    pytest.param("bridge.position:1", marks=LONG),
    pytest.param("bridge.positioned:1", marks=LONG),
    pytest.param("bridge.position:3", marks=LONG),
    "bridge.positioned:3",
]
BACKLOG_POINTS = [
    pytest.param("bridge.backlog", marks=LONG),
    "bridge.backlogged",
    pytest.param("bridge.backlog:2", marks=LONG),
    pytest.param("bridge.backlog-remove", marks=LONG),
    "bridge.backlog-release",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_between_two_effects(ingested: BridgeStream, start_bridge: StartReplica, point: str) -> None:
    bridge = start_bridge()
    bridge.kill()
    ingested.apply()
    ingested.produce([*good(users(20, 5)), ("ana", b"poison")])
    bridge.start_with_failpoint(point)
    eventually(lambda: not bridge.running, 30)
    bridge.kill()
    bridge.start()
    ingested.positioned(101, 30)
    ingested.has_made(first_offsets(100))
    assert [entry["source"]["offset"] for entry in ingested.rejected()] == [100]


@pytest.mark.parametrize("point", BACKLOG_POINTS)
def test_a_crash_around_a_backlog(ingested: BridgeStream, start_bridge: StartReplica, point: str) -> None:
    bridge = start_bridge()
    bridge.kill()
    ingested.apply()
    ingested.produce(good(["big"] * 40 + ["small"]))
    bridge.start_with_failpoint(point)

    def finish() -> bool:
        """Whether the bridge is gone."""
        for update in ingested.unfinished():
            ingested.finish(update)
        return not bridge.running

    # Making it, adding to it, draining it: each crash needs its own.
    if point not in ("bridge.backlog", "bridge.backlogged"):
        eventually(ingested.backlogs, 40)
        ingested.produce(good(["big"]))
    removing = "-re" in point
    eventually(finish if removing else lambda: not bridge.running, 60)
    bridge.kill()
    bridge.start()
    count = 41 + (point not in ("bridge.backlog", "bridge.backlogged"))
    eventually(lambda: finish() or len(ingested.updates()) == count, 40)
    ingested.has_made(first_offsets(count))
    eventually(lambda: finish() or not ingested.backlogs(), 30)
    ingested.positioned(count, 30)


def test_a_broker_that_is_away_is_a_condition(
    ingested: BridgeStream, start_bridge: StartReplica, environment: Environment
) -> None:
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["ana"]))
    ingested.positioned(1)
    environment.kill("kafka")
    try:
        ingested.reason("BrokerUnreachable", 40)
    finally:
        environment.start("kafka")
    ingested.produce(good(["bo"]))
    ingested.positioned(2, 60)
    assert bridge.running
    assert ingested.condition()["status"] == "True"


def test_an_api_server_that_is_away_is_outlived(
    ingested: BridgeStream, start_bridge: StartReplica, environment: Environment
) -> None:
    bridge = start_bridge()
    ingested.apply(limits={"maxObjects": 5000, "maxPerUser": 100})
    ingested.produce(good(users(100, 10)))
    eventually(lambda: ingested.count() >= 100, 30)
    environment.kill("apiserver")
    ingested.produce(good(["late"]))
    environment.start("apiserver")
    ingested.positioned(1001, 60)
    ingested.has_made(first_offsets(1001))
    assert bridge.running


@pytest.mark.parametrize("reason", ["Forbidden", ""], ids=["403", "422"])
def test_creates_that_are_forbidden_for_a_while_are_lost_by_nobody(
    ingested: BridgeStream, start_bridge: StartReplica, reason: str
) -> None:
    """As a quota does, which is judged by the same code: 403 for what is there and for what is not.

    A policy without a `reason` answers 422.
    """
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["ana"]))
    ingested.positioned(1)
    with policy(ingested.kube, ingested.namespace, "userupdates", message="no more updates today", reason=reason):
        ingested.produce(good(["bo", "cy", "bo"]))
        ingested.reason("CreatesRefused", 20)
        assert "no more updates today" in ingested.condition()["message"]
        assert len(ingested.updates()) == 1
    ingested.positioned(4, 30)
    ingested.has_made(first_offsets(4))
    check_links(ingested.updates())
    assert bridge.running


def test_what_may_not_be_configured_is_named(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply(kafka={"secretRef": {"name": "kafka"}})
    ingested.reason("SecretMissing")
    secret = {"metadata": {"name": "kafka"}, "stringData": {"ssl.key.location": "/etc/passwd"}}
    path = f"/api/v1/namespaces/{ingested.namespace}/secrets"
    ingested.kube.call("POST", path, secret)
    ingested.reason("ConfigRefused")
    assert "ssl.key.location" in ingested.condition()["message"]
    ingested.change(kafka={"secretRef": None})
    ingested.reason("Consuming")


def test_another_address_of_the_brokers_acts(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.produce(good(["ana"]))
    ingested.apply(kafka={"bootstrapServers": "127.0.0.1:1"})
    ingested.reason("BrokerUnreachable", 30)
    ingested.change(kafka={"bootstrapServers": ingested.bootstrap})
    ingested.positioned(1, 20)


def test_an_etcd_restored_from_a_copy_gets_its_updates_back(
    ingested: BridgeStream, start_bridge: StartReplica, environment: Environment
) -> None:
    """Objects and position go back together; the bridge lives through it and has seen later positions."""
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["ana", "bo"]))
    ingested.positioned(2)
    data, copy = environment.layout.data / "etcd", environment.layout.data / "etcd.copy"
    _restart_control_plane(environment, lambda: shutil.copytree(data, copy))
    try:
        ingested.produce(good(["cy", "dan"]))
        ingested.positioned(4, 40)

        def restore() -> None:
            shutil.rmtree(data)
            copy.rename(data)

        _restart_control_plane(environment, restore)
        eventually(lambda: ingested.offsets() == first_offsets(4), 60)
        ingested.positioned(4, 40)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    assert bridge.running


def _restart_control_plane(environment: Environment, meanwhile: Callable[[], object]) -> None:
    for name in ("apiserver", "etcd"):
        environment.kill(name)
    meanwhile()
    for name in ("etcd", "apiserver"):
        environment.start(name)
