"""What tests share: a controller for a module where no test kills it; a stream or topic, and kubectl, for each test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from devenv.environment import Environment
from tests.support.bridge_stream import BridgeStream
from tests.support.controller_stream import ControllerStream, make_controller_stream
from tests.support.kube import Kube
from tests.support.manifests import Applier
from tests.support.replicas import Replica
from tests.support.wire import Wire, wired


@pytest.fixture(scope="module")
def controller(environment: Environment, kube: Kube) -> Iterator[Replica]:
    """A controller for all tests of a module, none of which harms it."""
    name = f"controller-{secrets.token_hex(3)}"
    replica = Replica(environment, environment.replica("controller", name))
    replica.start()
    yield replica
    replica.kill()


@pytest.fixture
def checkpoints() -> str:
    """How the stream checkpoints; a module that is to hold for both ways is parametrized by this name."""
    return "EveryStep"


@pytest.fixture
def stream(kube: Kube, environment: Environment, namespace: str, checkpoints: str) -> ControllerStream:
    """A stream of one test, not yet applied, before a downstream that has forgotten all and behaves well."""
    return make_controller_stream(kube, environment, namespace, checkpoints)


@pytest.fixture
def ingested(kube: Kube, environment: Environment, namespace: str, topic: str) -> BridgeStream:
    """The stream of a test of the bridge, not yet applied, with a topic of its own."""
    return BridgeStream(kube, environment.bootstrap_servers, namespace, topic)


@pytest.fixture
def api(environment: Environment, kube: Kube, namespace: str) -> Applier:
    """Objects of ours, and kubectl, in the test's namespace."""
    return Applier(kube, environment.kubectl, namespace)


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    """A client of downstreams and a sample downstream, in this process."""
    async with wired(tmp_path) as wire:
        yield wire
