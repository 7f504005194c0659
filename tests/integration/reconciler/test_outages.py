"""Watches and Leases fail while the API server still answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream
from tests.support.eventually import eventually
from tests.support.kube import Kube

DEFINITION = "userupdates.enrichment.dev"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture
def definition(kube: Kube) -> Iterator[dict[str, object]]:
    """The CRD of UserUpdates; it exists again at the end, whatever the test did to it."""
    body = yaml.safe_load(Path("crds/userupdates.yaml").read_text())
    yield body
    define(kube, body)


def define(kube: Kube, body: dict[str, object]) -> None:
    names = {item["metadata"]["name"] for item in kube.call("GET", DEFINITIONS)["items"]}
    if DEFINITION not in names:
        kube.call("POST", DEFINITIONS, body)
    eventually(lambda: kube.call("GET", "/apis/enrichment.dev/v1alpha1/userupdates") is not None, 20)


def test_kopf_comes_back_when_it_has_given_up(
    stream: ControllerStream, kube: Kube, start_controller: StartReplica, definition: dict[str, object]
) -> None:
    """kopf gives up when a list answers 404, and if it is started without the kinds, it never watches them."""
    controller = start_controller()
    stream.apply()
    stream.add(sequence=1, name="before")
    stream.until("before", "Succeeded")
    kube.call("DELETE", f"{DEFINITIONS}/{DEFINITION}")
    eventually(lambda: "kopf gave up" in controller.log.read_text(), 30)
    eventually(lambda: "does not serve our kinds" in controller.log.read_text(), 30)
    define(kube, definition)
    stream.add(sequence=2, name="after")
    stream.until("after", "Succeeded", within=30)


def test_a_deleted_lease_ends_a_tenure_and_no_users_turn(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    start_controller("controller-robbed")
    stream.rules({"step": "permissions", "action": "busy", "count": 1})
    stream.apply(every={"busyDelaySeconds": 4})
    names = [stream.add(user, 1) for user in ("ana", "ben", "cy")]
    stream.until(names[0], "Waiting", "DownstreamBusy")
    path = f"/apis/coordination.k8s.io/v1/namespaces/{stream.namespace}/leases/updatestream-{stream.stream}"
    stream.kube.call("DELETE", path)
    stream.held_by("controller-robbed", within=20)
    stream.all_finished(40)
    assert stream.violations(busy_delay=4) == []


def test_an_object_with_half_a_status_stops_no_collection(
    stream: ControllerStream, environment: Environment, start_controller: StartReplica
) -> None:
    stream.apply(retention={"succeededSeconds": 60})
    half = stream.add(sequence=1, name="half", ttlSecondsAfterFinished=60)
    stream.kube.patch(stream.namespace, "userupdates", half, {"status": {"phase": "Succeeded"}}, status=True)
    controller = start_controller()
    stream.until(stream.add(sequence=2), "Succeeded")
    labels = f'namespace="{stream.namespace}",phase="Succeeded",stream="{stream.stream}"'
    eventually(lambda: f"updates_finished_total{{{labels}}}" in controller.metrics(), 10)
    assert "Unexpected error" not in controller.log.read_text()
