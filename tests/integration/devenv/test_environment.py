"""The environment itself: every part can be killed and comes back on the same ports and data; accounts have limits."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, Producer

from devenv import broker, lifecycle
from devenv.environment import INFRASTRUCTURE, Environment
from tests.support.eventually import eventually
from tests.support.kube import Kube

BIG = 8 << 20


def produce(environment: Environment, topic: str, value: bytes) -> None:
    refused: list[object] = []
    producer = Producer({"bootstrap.servers": environment.bootstrap_servers, "message.max.bytes": BIG + 65536})
    producer.produce(topic, key=b"userid1", value=value, on_delivery=lambda error, _: refused.append(error))
    assert producer.flush(30) == 0
    assert refused == [None]


def consume(environment: Environment, topic: str) -> bytes:
    consumer = Consumer(
        {"bootstrap.servers": environment.bootstrap_servers, "group.id": topic, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    try:
        message = eventually(lambda: consumer.poll(1), within=30)
        assert message is not None and message.error() is None
        return bytes(message.value() or b"")
    finally:
        consumer.close()


@pytest.mark.parametrize("name", INFRASTRUCTURE)
def test_killed_part_comes_back_where_it_was(environment: Environment, name: str) -> None:
    before, pid = environment.command(name), environment.processes.find(name)
    environment.kill(name)
    assert not environment.running(name)
    try:
        assert environment.start(name)
    finally:
        lifecycle.up_infrastructure(environment)
    after = environment.processes.find(name)
    assert environment.command(name).ports == before.ports
    assert pid is not None and after is not None and after.pid != pid.pid
    assert environment.layout.pid(name).read_text().strip() == str(after.pid)


def test_up_leaves_alone_what_runs(environment: Environment) -> None:
    before = [environment.processes.find(name) for name in INFRASTRUCTURE]
    lifecycle.up_infrastructure(environment)
    assert [environment.processes.find(name) for name in INFRASTRUCTURE] == before


def test_acknowledged_writes_survive_the_death_of_etcd_and_apiserver(
    environment: Environment, kube: Kube, namespace: str
) -> None:
    environment.kill("etcd")
    environment.kill("apiserver")
    lifecycle.up_infrastructure(environment)
    assert kube.call("GET", f"/api/v1/namespaces/{namespace}")["metadata"]["name"] == namespace


def test_records_survive_the_death_of_kafka(environment: Environment, topic: str) -> None:
    produce(environment, topic, b"kept")
    environment.kill("kafka")
    environment.start("kafka")
    assert consume(environment, topic) == b"kept"


def test_broker_takes_a_record_of_eight_mebibytes(environment: Environment, topic: str) -> None:
    produce(environment, topic, b"x" * BIG)
    assert len(consume(environment, topic)) == BIG


def test_topic_is_created_once_and_deleted_once(environment: Environment, topic: str) -> None:
    broker.create_topic(environment.bootstrap_servers, topic)
    broker.delete_topic(environment.bootstrap_servers, topic)
    broker.delete_topic(environment.bootstrap_servers, topic)


@pytest.mark.parametrize("account", ["bridge", "controller"])
def test_accounts_are_not_the_administrator(environment: Environment, account: str) -> None:
    theirs = Kube.connect(environment.account_kubeconfig(account))
    with theirs.client as client:
        assert client.get("/apis/enrichment.dev/v1alpha1/updatestreams").status_code == 200
        assert client.get("/api/v1/secrets").status_code == 403
        assert client.delete("/apis/enrichment.dev/v1alpha1/namespaces/default/updatestreams/x").status_code == 403


@pytest.mark.parametrize(
    ("short", "plural"),
    [("us", "updatestreams"), ("uu", "userupdates"), ("re", "rejectedevents"), ("ub", "userbacklogs")],
)
def test_kubectl_knows_the_short_names(environment: Environment, short: str, plural: str) -> None:
    assert environment.kubectl.json("get", short, "--namespace", "default")["kind"] == "List"
    assert plural in environment.kubectl("api-resources", "--api-group=enrichment.dev", "-o", "name")
