"""Fixtures: one real environment for each worker; a namespace, a topic and the processes of its own for each test.

`USERUPDATES_TEST_ENV=DIR` keeps the environment in DIR running between sessions, for a short loop while developing.
Several workers have theirs in DIR/gw0, DIR/gw1 and so on.
`USERUPDATES_KIND=DIR` takes the environment of a kind cluster instead (`make e2e`): bridge and controller are pods.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import Scheduling

from devenv import broker, lifecycle
from devenv.environment import Environment
from devenv.kind.cluster import KIND, KindEnvironment
from devenv.layout import PORTS, port_range
from tests.support import workers, world
from tests.support.kube import Kube
from tests.support.pipeline import Pipeline, make_pipeline
from tests.support.replicas import Replica

# Properties are about results, not speed: on a busy machine a slow example is no failure.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

TIERS = ("unit", "integration", "acceptance", "chaos", "e2e")
_REPLICAS = pytest.StashKey[list[Replica]]()


class StartReplica(Protocol):
    """Starts a bridge or controller; `identity` is made up where none is given."""

    def __call__(self, identity: str = "", *options: str, wait: bool = True) -> Replica: ...


def pytest_configure() -> None:
    """The environments of a worker, and those that its tests start besides, choose from ports of its own.

    Programs in Go use one processor there: the others are for other workers, and it takes a tenth less of its time.
    """
    if workers.worker():
        os.environ[PORTS] = port_range(*workers.place())
        os.environ["GOMAXPROCS"] = "1"
    else:
        os.environ[workers.RUN] = secrets.token_hex(4)


def pytest_unconfigure() -> None:
    """Stop what workers have left running that were interrupted or have crashed."""
    if not workers.worker():
        for directory in workers.left_over():
            lifecycle.down(Environment(directory))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto`."""
    return workers.count(config)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Which worker runs which tests."""
    return workers.Scheduler(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """`--durations=20` prints the longest modules too, as `workers.SECONDS` has them."""
    if count := config.getoption("durations"):
        terminalreporter.section(f"slowest {count} modules")
        for module, seconds in workers.slowest(terminalreporter.stats)[:count]:
            terminalreporter.write_line(f'    "{module}": {seconds:.0f},')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The directory is the tier."""
    for item in items:
        tier = item.path.relative_to(Path(__file__).parent).parts[0]
        if tier in TIERS:
            item.add_marker(tier)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failed test shows its objects, the downstream's journal and the end of the logs of its processes."""
    report = yield
    if report.failed and (fixtures := getattr(item, "funcargs", None)):
        started = [
            *item.stash.get(_REPLICAS, []),
            *(value for value in fixtures.values() if isinstance(value, Replica)),
        ]
        report.sections += world.sections(fixtures)
        report.sections += [(f"log of {replica.name}", replica.tail()) for replica in started]
    return report


@pytest.fixture(scope="session")
def environment(request: pytest.FixtureRequest) -> Iterator[Environment]:
    """etcd, kube-apiserver with the CRDs and accounts, Kafka, the sample downstream: started here, stopped at the end.

    A test that kills one of them starts it again before it ends.
    """
    if cluster := os.environ.get(KIND):
        yield KindEnvironment.attach(Path(cluster))  # it is up, and stays so
        return
    kept = os.environ.get("USERUPDATES_TEST_ENV")
    directory = Path(kept, workers.worker()) if kept else workers.directory("test")
    environment = Environment(directory)
    try:
        lifecycle.up_infrastructure(environment)
        yield environment
    finally:
        if not kept:
            lifecycle.down(environment)
            if request.session.testsfailed:
                print(f"\nlogs of the environment: {environment.layout.run}")
            else:
                shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def kube(environment: Environment) -> Iterator[Kube]:
    """The API server with the administrator's rights."""
    kube = Kube.connect(environment.kubeconfig)
    with kube.client:
        yield kube


@pytest.fixture
def namespace(kube: Kube) -> Iterator[str]:
    """A fresh namespace; it is emptied at the end, so that no later bridge or controller works on what is in it."""
    name = f"test-{secrets.token_hex(4)}"
    kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    kube.empty(name)


@pytest.fixture
def topic(environment: Environment) -> Iterator[str]:
    """A fresh topic of one partition; its name serves as the group id too."""
    name = f"test-{secrets.token_hex(4)}"
    broker.create_topic(environment.bootstrap_servers, name)
    yield name
    broker.delete_topic(environment.bootstrap_servers, name)


@pytest.fixture
def pipeline(kube: Kube, environment: Environment, namespace: str, topic: str) -> Pipeline:
    """A stream of one test from its topic to its downstream, not yet applied."""
    return make_pipeline(kube, environment, namespace, topic)


@pytest.fixture
def start_bridge(environment: Environment, namespace: str, request: pytest.FixtureRequest) -> Iterator[StartReplica]:
    """Starts bridges: `start_bridge()`, `start_bridge("bridge-a", "--log-level", "debug", wait=False)`."""
    yield from _replicas(environment, "bridge", request)


@pytest.fixture
def start_controller(
    environment: Environment, namespace: str, request: pytest.FixtureRequest
) -> Iterator[StartReplica]:
    """Starts controllers, as `start_bridge` does."""
    yield from _replicas(environment, "controller", request)


def _replicas(environment: Environment, role: str, request: pytest.FixtureRequest) -> Iterator[StartReplica]:
    started: list[Replica] = []
    request.node.stash.setdefault(_REPLICAS, []).extend(started)

    def start(identity: str = "", *options: str, wait: bool = True) -> Replica:
        name = identity or f"{role}-{secrets.token_hex(3)}"
        replica = Replica(environment, environment.replica(role, name, *options))
        started.append(replica)
        request.node.stash[_REPLICAS].append(replica)
        replica.start(wait=wait)
        return replica

    yield start
    for replica in started:
        replica.end()
