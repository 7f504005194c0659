"""Each right of the two accounts is needed: without it something is refused that, with it, comes about.

The API server's own log says what was refused. So each test also shows that nothing else was: with exactly these rights
everything works.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import confluent_kafka as ck
import pytest

from controller.api import names
from devenv import apiserver, kubectl, probes
from devenv.environment import Environment
from tests.integration.reconciler.test_retention import finish, reach
from tests.support.bridge_stream import BridgeStream, good, group_consumer
from tests.support.controller_stream import ControllerStream, make_controller_stream
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.manifests import SOURCE, UPDATE, changed
from tests.support.records import GOOD
from tests.support.replicas import Replica
from tests.support.rights import AuditedEnvironment, Right, audited_environment, granted, taken_away

#: True when what the right is for has come about.
Goal = Callable[[], bool]

SIGNS = f"/apis/coordination.k8s.io/v1/namespaces/{apiserver.NAMESPACE}/leases"
FINALIZER = {"finalizers": [names.BACKLOG_FINALIZER]}


@pytest.fixture(scope="module")
def audited(environment: Environment) -> Iterator[tuple[AuditedEnvironment, Kube]]:
    """An API server with a log of its own, and the policies in force; Kafka is the session's."""
    with audited_environment(environment.sources, "rights") as (own, kube):
        kubectl.install_policies(own.kubectl)
        bridge = Kube.connect(own.account_kubeconfig("bridge"))
        with bridge.client, taken_away(kube, Right("bridge", "ingest", "userupdates")):
            update = changed(UPDATE, {"spec.source": SOURCE})
            path = bridge.path("default", "userupdates")
            eventually(lambda: bridge.client.post(path, json=update, params={"dryRun": "All"}).status_code == 403, 60)
        yield own, kube


@dataclass(frozen=True, slots=True)
class Stage:
    """A namespace, a topic and a stream of one test, seen from both ends."""

    ingested: BridgeStream
    processing: ControllerStream

    @property
    def kube(self) -> Kube:
        return self.ingested.kube

    def secret(self, **entries: str) -> str:
        path = f"/api/v1/namespaces/{self.ingested.namespace}/secrets"
        self.kube.call("POST", path, {"metadata": {"name": "credentials"}, "stringData": entries})
        return "credentials"

    @property
    def topic_id(self) -> str:
        servers, topic = self.ingested.bootstrap, self.ingested.topic
        admin = probes.admin(servers)  # held until the answer is there
        topic_id = admin.describe_topics(ck.TopicCollection([topic]))[topic].result(60).topic_id
        return names.topic_id_text(topic_id.get_most_significant_bits(), topic_id.get_least_significant_bits())

    def record_name(self, offset: int) -> str:
        """Of the update of a record that is not in the topic yet."""
        return names.record_name(self.ingested.name, self.topic_id, 0, offset)


@pytest.fixture
def stage(audited: tuple[AuditedEnvironment, Kube], environment: Environment, topic: str) -> Iterator[Stage]:
    own, kube = audited
    namespace = f"test-{secrets.token_hex(4)}"
    kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    yield Stage(
        BridgeStream(kube, environment.bootstrap_servers, namespace, topic),
        make_controller_stream(kube, own, namespace),
    )
    kube.empty(namespace)


# What the bridge does


def consumes(stage: Stage) -> Goal:
    stage.ingested.apply()
    stage.ingested.produce(good(["ana"]))
    return lambda: len(stage.ingested.updates()) == 1 and stage.ingested.entry().get("committed") == 1


def adopted(kube: Kube, namespace: str, name: str) -> bool:
    """Whether a stream has the annotation of its uid."""
    stream = kube.get(namespace, "updatestreams", name)
    annotations = stream["metadata"].get("annotations") or {}
    return bool(annotations.get(names.UID_ANNOTATION) == stream["metadata"]["uid"])


def adopts_what_it_reads(stage: Stage) -> Goal:
    """A refused patch is tried again when the consumption begins anew."""
    stage.ingested.apply()
    waits = itertools.count(100)

    def marked() -> bool:
        stage.ingested.change(kafka={"config": {"fetch.wait.max.ms": str(next(waits))}})
        return adopted(stage.kube, stage.ingested.namespace, stage.ingested.name)

    return marked


def consumes_with_a_secret(stage: Stage) -> Goal:
    stage.ingested.apply(kafka={"secretRef": {"name": stage.secret()}})
    stage.ingested.produce(good(["ana"]))
    return lambda: stage.ingested.entry().get("committed") == 1


def finds_a_name_taken(stage: Stage) -> Goal:
    spec = {"stream": stage.ingested.name, "user": "eve", "sequence": 1, **GOOD}
    stage.kube.create(
        stage.ingested.namespace, "userupdates", {"metadata": {"name": stage.record_name(0)}, "spec": spec}
    )
    stage.ingested.apply()
    stage.ingested.produce(good(["ana"]))
    return lambda: [entry["reason"] for entry in stage.ingested.rejected()] == ["NameConflict"]


def rejects(stage: Stage) -> Goal:
    stage.ingested.apply()
    stage.ingested.produce([("ana", b"nonsense")])
    return lambda: len(stage.ingested.rejected()) == 1


def folds(stage: Stage) -> Goal:
    stage.ingested.apply()
    stage.ingested.produce([("ana", b"nonsense")] * 150)
    return lambda: sum(entry["count"] for entry in stage.ingested.rejected()) == 150


def prunes(stage: Stage) -> Goal:
    """One more than are kept."""
    for number in range(1000):
        source = {**SOURCE, "offset": number, "lastOffset": number}
        spec = {"stream": stage.ingested.name, "reason": "NotJSON", "key": "YW5h", "size": 9, "count": 1}
        body = {"metadata": {"name": f"old-{number}"}, "spec": {**spec, "source": source}}
        stage.kube.create(stage.ingested.namespace, "rejectedevents", body)
    stage.ingested.apply()

    def pruned() -> bool:
        # The oldest go when there is a new one.
        stage.ingested.produce([("ana", b"nonsense")])
        return bool(stage.ingested.entry().get("committed")) and len(stage.ingested.rejected()) <= 1000

    return pruned


def puts_aside(stage: Stage) -> Goal:
    """A user with more records than fit."""
    stage.ingested.apply(suspend={"users": ["big"]}, limits={"maxPerUser": 1})
    stage.ingested.produce(good(["big"] * 20))
    return lambda: [backlog["spec"]["user"] for backlog in stage.ingested.backlogs()] == ["big"]


def works_off(stage: Stage) -> Goal:
    """A backlog that is there already: an empty one is deleted, and let go."""
    stage.ingested.apply()
    name = names.backlog_name(stage.ingested.name, "big")
    spec = {"stream": stage.ingested.name, "user": "big", "partitions": []}
    stage.kube.create(stage.ingested.namespace, "userbacklogs", {"metadata": {"name": name, **FINALIZER}, "spec": spec})
    return lambda: not stage.ingested.backlogs()


def lets_go(stage: Stage) -> Goal:
    """A deleted backlog whose stream is gone."""
    spec = {"stream": "gone", "user": "big", "partitions": []}
    stage.kube.create(
        stage.ingested.namespace, "userbacklogs", {"metadata": {"name": "left", **FINALIZER}, "spec": spec}
    )
    stage.kube.delete(stage.ingested.namespace, "userbacklogs", "left")
    return lambda: not stage.ingested.backlogs()


def tells_of_offsets_that_somebody_set(stage: Stage) -> Goal:
    """The group has committed less than the stream's status says."""
    ingested = stage.ingested
    ingested.apply()
    ingested.produce(good(["ana", "bo"]))
    with group_consumer(ingested.bootstrap, ingested.topic) as consumer:
        consumer.commit(offsets=[ck.TopicPartition(ingested.topic, 0, 1)], asynchronous=False)
    entry = {"topic": ingested.topic, "topicId": stage.topic_id, "partition": 0, "position": 2, "committed": 2}
    stage.kube.patch(
        ingested.namespace, "updatestreams", ingested.name, {"status": {"partitions": [entry]}}, status=True
    )
    path = f"/apis/events.k8s.io/v1/namespaces/{ingested.namespace}/events"
    return lambda: "OffsetsIgnored" in {event["reason"] for event in stage.kube.call("GET", path)["items"]}


# What the controller does


def applies(stage: Stage) -> Goal:
    stage.processing.apply()
    name = stage.processing.add()
    return lambda: (
        stage.processing.status(name).get("phase") == "Succeeded"
        and stage.processing.condition().get("status") == "True"
    )


def adopts_what_it_works_on(stage: Stage) -> Goal:
    """A refused patch is tried again when a controller begins anew."""
    stage.processing.apply()
    shards = itertools.cycle([2, 1])

    def marked() -> bool:
        stage.processing.change(shards=next(shards))
        return adopted(stage.kube, stage.processing.namespace, stage.processing.stream)

    return marked


def applies_with_a_secret(stage: Stage) -> Goal:
    secret = {"secretRef": {"name": stage.secret(Authorization="Bearer x")}}
    stage.processing.apply(secret)
    name = stage.processing.add()
    return lambda: stage.processing.status(name).get("phase") == "Succeeded"


def looks_a_predecessor_up(stage: Stage) -> Goal:
    stage.processing.apply()
    name = stage.processing.record("ana", 7, datetime.now(UTC), after=6)
    return lambda: stage.processing.status(name).get("phase") == "Succeeded"


def collects(stage: Stage) -> Goal:
    finish(stage.processing, stage.processing.record("ana", 0, datetime.now(UTC)))
    stage.processing.apply(retention={"succeededSeconds": 60})
    reach(stage.processing, 9, 9)
    return lambda: not stage.processing.phases()


def labels_what_is_made_by_hand(stage: Stage) -> Goal:
    stage.processing.apply(shards=2)
    name = stage.processing.add(suspend=True)

    def labelled() -> bool:
        # What was refused is tried again when the update is seen again.
        body = {"metadata": {"annotations": {"seen": secrets.token_hex(4)}}}
        update = stage.kube.patch(stage.processing.namespace, "userupdates", name, body)
        return names.BUCKET_LABEL in update["metadata"].get("labels", {})

    return labelled


def tells_of_a_suspension(stage: Stage) -> Goal:
    stage.processing.rules({"action": "busy"})  # else it would be done when it is resumed, and nothing new to tell
    stage.processing.apply()
    name = stage.processing.add(suspend=True)
    path = f"/apis/events.k8s.io/v1/namespaces/{stage.processing.namespace}/events"

    def told() -> bool:
        # An Event is written once, if at all: it is told of again when there is something new to tell.
        stage.processing.suspend(name, on=stage.processing.reason(name) != "Suspended")
        return bool(stage.kube.call("GET", path)["items"])

    return told


def deletes_what_a_stream_has_left(stage: Stage) -> Goal:
    """A Lease that nobody holds, of a stream that is not there."""
    lease = {"metadata": {"name": names.lease_name("gone"), "labels": {names.STREAM_LABEL: "gone"}}}
    path = f"/apis/coordination.k8s.io/v1/namespaces/{stage.processing.namespace}/leases"
    stage.kube.call("POST", path, lease)
    return lambda: not stage.kube.call("GET", path)["items"]


def signs_of(stage: Stage) -> dict[str, str]:
    """Component by identity, of the Leases by which processes show that they live."""
    query = {"labelSelector": names.COMPONENT_LABEL}
    items = stage.kube.call("GET", SIGNS, params=query)["items"]
    return {item["spec"]["holderIdentity"]: item["metadata"]["labels"][names.COMPONENT_LABEL] for item in items}


def shows_that_it_lives(stage: Stage) -> Goal:
    before = signs_of(stage).keys()
    return lambda: bool(signs_of(stage).keys() - before)


#: What shows that a right is needed, where it is not the whole way of one record or update.
SPECIAL: dict[tuple[str, str, str], Callable[[Stage], Goal]] = {
    ("bridge", "patch", "updatestreams"): adopts_what_it_reads,
    ("bridge", "get", "userupdates"): finds_a_name_taken,
    ("bridge", "create", "rejectedevents"): rejects,
    ("bridge", "patch", "rejectedevents"): folds,
    ("bridge", "delete", "rejectedevents"): prunes,
    ("bridge", "create", "userbacklogs"): puts_aside,
    ("bridge", "delete", "userbacklogs"): works_off,
    ("bridge", "patch", "userbacklogs"): lets_go,
    ("bridge", "get", "userbacklogs"): lets_go,
    ("bridge", "get", "secrets"): consumes_with_a_secret,
    ("controller", "patch", "updatestreams"): adopts_what_it_works_on,
    ("bridge", "create", "events"): tells_of_offsets_that_somebody_set,
    ("controller", "get", "updatestreams"): collects,
    ("controller", "get", "userupdates"): looks_a_predecessor_up,
    ("controller", "delete", "userupdates"): collects,
    ("controller", "patch", "userupdates"): labels_what_is_made_by_hand,
    ("controller", "list", "userbacklogs"): collects,
    ("controller", "delete", "leases"): deletes_what_a_stream_has_left,
    ("controller", "get", "secrets"): applies_with_a_secret,
    ("controller", "create", "events"): tells_of_a_suspension,
    ("bridge", "create", "own leases"): shows_that_it_lives,
    ("bridge", "patch", "own leases"): shows_that_it_lives,
    ("controller", "patch", "own leases"): shows_that_it_lives,
}
#: What is done at the end.
TAKES_BACK = [right for right in granted() if right.own and right.verb == "delete"]


@pytest.mark.parametrize("right", [right for right in granted() if right not in TAKES_BACK], ids=str)
def test_a_right_is_needed(audited: tuple[AuditedEnvironment, Kube], stage: Stage, right: Right) -> None:
    own, kube = audited
    usual = consumes if right.account == "bridge" else applies
    drive = SPECIAL.get((right.account, right.verb, "own " * right.own + right.resource), usual)
    since = own.audit.stat().st_size
    replica = Replica(own, own.replica(right.account, f"{right.account}-{secrets.token_hex(3)}"))
    try:
        with taken_away(kube, right):
            reached = drive(stage)
            replica.start(wait=False)
            # Looking for the goal is part of driving it: some of them look again and again.
            eventually(lambda: (reached(), right in own.refused(since))[1], within=25)
        eventually(reached, within=40)
        assert own.refused(since) == {right}
    finally:
        replica.kill()


@pytest.mark.parametrize("right", TAKES_BACK, ids=str)
def test_who_stops_takes_back_its_sign_of_life(
    audited: tuple[AuditedEnvironment, Kube], stage: Stage, right: Right
) -> None:
    own, kube = audited
    since = own.audit.stat().st_size
    replica = Replica(own, own.replica(right.account, f"{right.account}-{secrets.token_hex(3)}"))
    try:
        replica.start()
        eventually(lambda: signs_of(stage).get(replica.name) == right.account)
        with taken_away(kube, right):
            replica.stop()
        assert own.refused(since) == {right}
        assert replica.name in signs_of(stage)
        replica.start()
        replica.stop()
        assert replica.name not in signs_of(stage)
    finally:
        replica.kill()
