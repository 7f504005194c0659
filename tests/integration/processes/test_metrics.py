"""What both processes count of a stream, by their own `/metrics`: each record once, under labels that can be joined."""

from __future__ import annotations

from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controller.api.names import API_VERSION, UID_ANNOTATION
from controller.bridge.creator import create
from controller.clients.cluster import UPDATES, Cluster
from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.admission import PROBES, policy
from tests.support.bridge_stream import BridgeStream, good
from tests.support.controller_stream import ControllerStream
from tests.support.eventually import eventually
from tests.support.replicas import Replica

RECORDS = "enrichment_bridge_records_total"
CREATES = "enrichment_bridge_creates_total"
REJECTED = "enrichment_bridge_rejected_total"


def samples(replica: Replica, namespace: str) -> Counter[tuple[str, tuple[tuple[str, str], ...]]]:
    """Of streams of that namespace: values by name and by labels without the namespace."""
    found: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
    for family in text_string_to_metric_families(replica.metrics()):
        for sample in family.samples:
            if "stream" in sample.labels:
                assert "namespace" in sample.labels and "/" not in sample.labels["stream"], sample
            if sample.labels.pop("namespace", None) == namespace:
                found[sample.name, tuple(sorted(sample.labels.items()))] = int(sample.value)
    return found


def test_each_record_is_counted_once(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    """Not what else Kafka tells of a partition, nor what is read again as the way to Kafka changes."""
    bridge, stream = start_bridge(), ("stream", ingested.name)
    reason = ("reason", "NotJSON"), stream
    ingested.apply(limits={"maxObjects": 1000, "maxPerUser": 1})
    ingested.positioned(0)
    ingested.produce([*good(["ana"] * 20), ("cy", b"no JSON")])
    eventually(lambda: samples(bridge, ingested.namespace)[REJECTED, reason] == 1)
    eventually(lambda: samples(bridge, ingested.namespace)[RECORDS, (stream,)] >= 21)
    assert ingested.entry()["position"] <= 1, "twenty are read again"
    ingested.change(kafka={"config": {"client.rack": "elsewhere"}})
    eventually(lambda: bridge.log.read_text().count("Partitions assigned") == 2, 20)
    ingested.produce(good(["bo"]))
    eventually(lambda: len(ingested.updates()) == 2, 20)
    found = samples(bridge, ingested.namespace)
    assert found[RECORDS, (stream,)] == 22
    assert found[REJECTED, reason] == 1
    assert found[CREATES, (("outcome", "created"), stream)] == 2


async def test_the_outcome_of_a_create_says_what_became_of_it(
    ingested: BridgeStream, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(environment.account_kubeconfig("bridge")))
    source = {"topic": "t", "topicId": "A" * 22, "partition": 0, "offset": 0, "timestamp": "2026-01-01T00:00:00Z"}
    spec = {**PROBES["userupdates"]["spec"], "source": source}
    kind = {"apiVersion": API_VERSION, "kind": "UserUpdate"}
    manifest = {**kind, "metadata": {"name": "one", "namespace": ingested.namespace}, "spec": spec}
    other = {**manifest, "spec": {**spec, "source": {**source, "offset": 1}}}
    async with Cluster.connect() as cluster:
        outcomes = [(await create(cluster, each)).outcome for each in (manifest, manifest, other)]
        ingested.finish(await cluster.get(UPDATES, ingested.namespace, "one"))
        outcomes.append((await create(cluster, manifest)).outcome)
    assert outcomes == ["created", "already_there", "name_taken", "already_finished"]


def test_a_stream_that_is_deleted_leaves_no_series_in_either_process(
    ingested: BridgeStream, start_bridge: StartReplica, start_controller: StartReplica
) -> None:
    replicas = [start_bridge(), start_controller()]
    ingested.apply()
    ingested.produce(good(["ana"]))

    def called_twice() -> bool:
        """Nobody answers at its steps: calls, delays and what is shown of them are counted."""
        return any(update.get("status", {}).get("attempts", 0) > 1 for update in ingested.updates())

    eventually(called_twice, 20)
    for replica, metric in zip(replicas, (RECORDS, "enrichment_controller_calls_total"), strict=True):
        assert any(name == metric for name, _ in samples(replica, ingested.namespace))
    ingested.kube.delete(ingested.namespace, "updatestreams", ingested.name)
    for replica in replicas:
        eventually(lambda replica=replica: not samples(replica, ingested.namespace), 20)  # type: ignore[misc]


def test_a_stream_that_was_never_worked_on_leaves_no_series_of_what_was_refused(
    stream: ControllerStream, controller: Replica
) -> None:
    """A copy, whose condition the API server refuses."""
    metadata = {"name": stream.stream, "annotations": {UID_ANNOTATION: "of-another"}}
    steps = {step: {"url": "http://127.0.0.1:9/none"} for step in ("profile", "permissions", "resources")}
    spec = {"kafka": {"bootstrapServers": "127.0.0.1:9", "topic": "t"}, "steps": steps}
    with policy(stream.kube, stream.namespace, "updatestreams/status", reason="Forbidden"):
        stream.kube.create(stream.namespace, "updatestreams", {"metadata": metadata, "spec": spec})
        eventually(lambda: samples(controller, stream.namespace), 20)
        stream.remove()
        eventually(lambda: not samples(controller, stream.namespace), 20)
