"""The API server has another certificate, of another authority: both processes go on, without a restart."""

from __future__ import annotations

import base64
import json
import secrets
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from devenv.apiserver import write_kubeconfig
from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.replicas import Replica


def authority(environment: Environment) -> Path:
    return environment.layout.authority


def with_data(environment: Environment, role: str, path: Path) -> None:
    """A kubeconfig of that account with the authority in it, instead of the name of its file."""
    config = json.loads(environment.account_kubeconfig(role).read_text())
    data = base64.b64encode(authority(environment).read_bytes()).decode()
    cluster = {"server": config["clusters"][0]["cluster"]["server"], "certificate-authority-data": data}
    write_kubeconfig(path, cluster, config["users"][0]["user"]["token"])


@contextmanager
def started(environment: Environment, role: str, kubeconfig: Path) -> Iterator[Replica]:
    """A replica with a kubeconfig of its own."""
    command = environment.replica(role, f"{role}-{secrets.token_hex(3)}")
    replica = Replica(environment, replace(command, environment={**command.environment, "KUBECONFIG": str(kubeconfig)}))
    replica.start()
    try:
        yield replica
    finally:
        replica.kill()


def lives(replica: Replica) -> bool:
    with urllib.request.urlopen(f"{replica.command.url}/healthz", timeout=5) as answer:
        return bool(answer.status == 200)


def rotate(environment: Environment, kube: Kube, before_use: Callable[[], None] = lambda: None) -> None:
    old = authority(environment).read_bytes()
    environment.rotate_authority()
    assert authority(environment).read_bytes() != old
    before_use()
    kube.trust_too(authority(environment))


def test_both_go_on_when_the_authority_is_rotated(
    stream: ControllerStream, environment: Environment, kube: Kube, start_controller: StartReplica, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    with_data(environment, "bridge", kubeconfig)
    controller = start_controller()
    with started(environment, "bridge", kubeconfig) as bridge:
        stream.apply()
        stream.until(stream.add("ana", 1), "Succeeded")
        eventually(lambda: stream.condition("Consuming"))
        rotate(environment, kube, lambda: with_data(environment, "bridge", kubeconfig))
        stream.until(stream.add("ana", 2), "Succeeded", within=20)
        stream.until(stream.add("bo", 1), "Succeeded")
        generation = kube.get(stream.namespace, "updatestreams", stream.stream)["metadata"]["generation"] + 1
        stream.change(suspend={"ingest": True})
        eventually(lambda: stream.condition("Consuming").get("observedGeneration") == generation, 20)
        assert lives(controller) and lives(bridge)
        eventually(lambda: "kopf gave up" in controller.log.read_text())  # its first thread has nothing to do any more


def test_a_controller_without_streams_notices_too(
    stream: ControllerStream, environment: Environment, kube: Kube, start_controller: StartReplica
) -> None:
    start_controller()
    rotate(environment, kube)
    stream.apply()
    stream.until(stream.add("ana", 1), "Succeeded", within=25)


def test_an_authority_that_is_not_trusted_is_told_of_and_trusted_once_it_is_named(
    stream: ControllerStream, environment: Environment, kube: Kube, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    with_data(environment, "controller", kubeconfig)
    with started(environment, "controller", kubeconfig) as controller:
        stream.apply()
        stream.until(stream.add("ana", 1), "Succeeded")
        rotate(environment, kube)
        eventually(lambda: "certificate verify failed" in controller.log.read_text())
        assert lives(controller), "it may come any moment"
        with_data(environment, "controller", kubeconfig)
        stream.until(stream.add("ana", 2), "Succeeded", within=20)
