"""deploy/components/namespaced: bridge and controller have rights in the namespaces named to them, nowhere else.

The rights and the command line are those of deploy/overlays/namespaced, as kustomize renders it.
"""

from __future__ import annotations

import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import yaml

from controller.api import names
from devenv import apiserver, manifests
from devenv.environment import Environment
from tests.integration.api.test_rbac import ALLOWED, DENIED, matrix, may
from tests.support.bridge_stream import BridgeStream
from tests.support.controller_stream import make_controller_stream
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.pipeline import Pipeline
from tests.support.replicas import Replica
from tests.support.rights import AuditedEnvironment, audited_environment

NAMED = ("team-a", "team-b")
#: Named too, and not there at the start.
LATER = "later"
ELSEWHERE = "elsewhere"
#: What the bridge may do in all namespaces, so that one that is deleted can go.
EVERYWHERE = {("bridge", verb, "userbacklogs.enrichment.dev") for verb in ("get", "patch")}
RBAC = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
UNREAD = "Namespace is not read: it does not exist, or the RoleBindings in it are missing"


def rendered(*kinds: str) -> list[dict[str, Any]]:
    documents = yaml.safe_load_all(manifests.kustomize(manifests.OVERLAYS / "namespaced"))
    return [document for document in documents if document["kind"] in kinds]


@dataclass(frozen=True, slots=True)
class Confined:
    """An API server on which the accounts have these rights, and one of each process."""

    own: AuditedEnvironment
    kube: Kube
    #: In which Kafka is.
    shared: Environment
    bridge: Replica
    controller: Replica

    def whole(self, namespace: str, topic: str) -> Pipeline:
        """A stream of that namespace. All of a test read the same topic, each in a group of its own."""
        served = replace(make_controller_stream(self.kube, self.own, namespace), stream=f"{namespace}-{topic}")
        ingested = BridgeStream(self.kube, self.shared.bootstrap_servers, namespace, topic, name=served.stream)
        return Pipeline(ingested, served)

    def apply(self, *streams: Pipeline) -> None:
        for stream in streams:
            stream.apply(kafka={"groupId": stream.ingested.name})

    def ready(self, stream: Pipeline) -> None:
        eventually(lambda: stream.ingested.condition("Ready").get("status") == "True", within=20)

    def bind(self, namespace: str) -> None:
        """Both accounts have the rights in it that they have in team-a."""
        bindings = [found for found in rendered("RoleBinding") if found["metadata"]["namespace"] == NAMED[0]]
        for binding in bindings:
            binding["metadata"]["namespace"] = namespace
        assert len(bindings) == 2
        self.own.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(bindings))

    def make(self, namespace: str) -> None:
        self.kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        self.bind(namespace)

    def unmake(self, stream: Pipeline, namespace: str) -> None:
        """Delete a namespace as its controller does, which does not run here: the rights in it are gone first."""
        path = f"/api/v1/namespaces/{namespace}"
        self.kube.call("DELETE", path)
        self.kube.call("DELETE", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings")
        self.kube.call("DELETE", self.kube.path(namespace, "updatestreams"))
        self.kube.call("DELETE", self.kube.path(namespace, "userbacklogs"))
        eventually(lambda: not stream.ingested.backlogs(), within=15)
        self.kube.empty(namespace)
        body = self.kube.call("GET", path)
        self.kube.call("PUT", f"{path}/finalize", {**body, "spec": {"finalizers": []}})
        assert self.kube.client.get(path).status_code == 404


@pytest.fixture(scope="module")
def confined(environment: Environment) -> Iterator[Confined]:
    with audited_environment(environment.sources, "namespaced") as (own, kube):
        for namespace in (*NAMED, ELSEWHERE):
            kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        own.kubectl("delete", "clusterrolebinding", "enrichment-bridge", "enrichment-controller")
        own.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(rendered(*RBAC)))
        replicas = {}
        for workload in rendered("StatefulSet", "Deployment"):
            role, (container,) = workload["metadata"]["name"], workload["spec"]["template"]["spec"]["containers"]
            (option,) = [argument for argument in container["args"] if "namespaces" in argument]
            options = (option, "--namespaces", LATER)
            replicas[role] = Replica(own, own.replica(role, f"{role}-{secrets.token_hex(3)}", *options))
        try:
            for replica in replicas.values():
                replica.start()  # and is ready, although one of its namespaces is not there
            yield Confined(own, kube, environment, **replicas)
        finally:
            for replica in replicas.values():
                replica.kill()


def test_streams_of_the_named_namespaces_are_applied_and_no_others(confined: Confined, topic: str) -> None:
    first, second, other = (confined.whole(namespace, topic) for namespace in (*NAMED, ELSEWHERE))
    confined.apply(first, second, other)
    name = other.processing.add()
    first.produce(["ana", "bo"], 2)
    for stream in (first, second):
        stream.all_recorded(4)
        confined.ready(stream)
    finished = first.ingested.updates()[0]["metadata"]["name"]
    first.processing.ask(finished, "retry")
    eventually(lambda: first.processing.status(finished).get("refusedRequest"))
    untouched = other.processing.get(name), confined.kube.get(ELSEWHERE, "updatestreams", other.ingested.name)
    assert not any("status" in found or "annotations" in found["metadata"] for found in untouched)
    assert other.processing.leases() == {} and len(other.ingested.updates()) == 1
    assert confined.own.refused(0, but_in=LATER) == set()
    for replica in (confined.bridge, confined.controller):
        lines = [line for line in replica.log.read_text().splitlines() if UNREAD in line]
        assert len(lines) == 1 and f"namespace={LATER} " in lines[0]


def test_rights_end_at_the_named_namespaces(confined: Confined) -> None:
    def allowed(namespace: str) -> set[tuple[str, str, str]]:
        rows = [*matrix(ALLOWED), *matrix(DENIED)]
        return {row for row in rows if may(confined.kube, *row, namespace=namespace)}

    assert allowed(NAMED[0]) == allowed(NAMED[1]) == set(matrix(ALLOWED))
    assert allowed(ELSEWHERE) == allowed("") == EVERYWHERE
    signs = matrix([(account, "create patch delete", "leases.coordination.k8s.io") for account in apiserver.ACCOUNTS])
    assert all(may(confined.kube, *row, namespace=apiserver.NAMESPACE) for row in signs)


def test_a_namespace_that_is_made_later_and_again_is_worked_on(confined: Confined, topic: str) -> None:
    pids = confined.bridge.pid, confined.controller.pid
    stays = confined.whole(NAMED[0], topic)
    confined.apply(stays)
    stays.produce(["ana"], 1)
    stays.all_recorded(1)
    stream = confined.whole(LATER, topic)
    for turn in (1, 2):
        confined.make(LATER)
        confined.apply(stream)
        confined.ready(stream)
        stream.produce(["ana", "bo"], 1)
        stays.all_recorded(1 + 2 * turn)
        # Made anew, the stream goes on where its group was; at first all of the topic is new to it.
        stream.all_recorded({1: 3, 2: 2}[turn])
        stream.ingested.positioned(1 + 2 * turn)
        spec = {"stream": "gone", "user": "big", "partitions": []}
        metadata = {"name": "held", "finalizers": [names.BACKLOG_FINALIZER]}
        confined.kube.create(LATER, "userbacklogs", {"metadata": metadata, "spec": spec})
        confined.unmake(stream, LATER)
    assert (confined.bridge.pid, confined.controller.pid) == pids


@pytest.mark.parametrize("role", ["bridge", "controller"])
def test_who_can_read_none_of_its_namespaces_is_not_ready_and_goes_on_trying(confined: Confined, role: str) -> None:
    name, namespace = f"{role}-{secrets.token_hex(3)}", f"test-{secrets.token_hex(3)}"
    replica = Replica(confined.own, confined.own.replica(role, name, "--namespaces", namespace))
    try:
        replica.start(wait=False)
        eventually(lambda: UNREAD in replica.tail(), within=20)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{replica.command.url}/readyz", timeout=5)
        confined.make(namespace)
        replica.wait_ready()
        assert "Namespace is read now" in replica.tail()
    finally:
        replica.kill()
