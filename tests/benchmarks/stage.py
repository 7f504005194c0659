"""What all contenders share: a real etcd, kube-apiserver and Kafka, a fast downstream, fresh topics, an empty store."""

from __future__ import annotations

import json
import secrets
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from devenv import broker, lifecycle, probes
from devenv.environment import INFRASTRUCTURE, Environment
from devenv.errors import StartFailed
from devenv.layout import HOST
from devenv.processes import Command
from tests.benchmarks.meter import Meter
from tests.chaos import topic as topics
from tests.support.kube import Kube

NAMESPACE = "default"
DOWNSTREAM = "bench-downstream"
#: What every run's cost is split into, beside the contender's own processes.
SHARED = ("etcd", "apiserver", "kafka", DOWNSTREAM)


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    id: str


class Stage:
    """A running environment. Nothing of a run is left when the next one begins."""

    def __init__(self, environment: Environment, kube: Kube, progress: Callable[[str], None]) -> None:
        self.environment = environment
        self.kube = kube
        self.progress = progress

    @property
    def downstream_url(self) -> str:
        return f"http://{HOST}:{self.environment.ports.get(DOWNSTREAM)}"

    def start_python(self, name: str, module: str, *options: str, probe: probes.Probe = lambda: None) -> None:
        """A process of the benchmarks, from the checkout; returns when it is ready."""
        environment = self.environment.replica("bridge", "bridge").environment
        command = Command(name, (sys.executable, "-m", module, *options), probe, environment=environment)
        self.environment.processes.start(command)
        self.environment.processes.wait_ready(command)

    def start_downstream(self) -> None:
        port = str(self.environment.ports.get(DOWNSTREAM))
        probe = probes.http(f"{self.downstream_url}/count")
        self.start_python(DOWNSTREAM, "tests.benchmarks.downstream", "--port", port, probe=probe)

    def kill(self, *names: str) -> None:
        """SIGKILL to processes and what they have started; returns when they are gone."""
        _kill(self.environment, names)

    @contextmanager
    def topic(self) -> Iterator[Topic]:
        """A fresh topic of one partition."""
        name = f"bench-{secrets.token_hex(4)}"
        servers = self.environment.bootstrap_servers
        try:
            yield Topic(name, topics.create(servers, name, 1))
        finally:
            broker.delete_topic(servers, name)

    # The downstream

    def control(self, **behaviour: float) -> None:
        """Forget all calls; behave like this from now on."""
        body = json.dumps(behaviour).encode()
        urllib.request.urlopen(f"{self.downstream_url}/control", body, timeout=10).close()

    def report(self) -> dict[str, Any]:
        return dict(json.loads(self._get("/report")))

    def count(self) -> int:
        """Events whose last call was answered."""
        return int(self._get("/count"))

    def wait_count(self, events: int, names: tuple[str, ...], within: float) -> None:
        """Return when so many last calls were answered. Raises StartFailed where a process ends, or nothing moves."""
        deadline, found = time.monotonic() + within, -1
        while (now := self.count()) < events:
            if now > found:
                deadline, found = time.monotonic() + within, now
            for name in names:
                if not self.environment.running(name):
                    raise StartFailed(f"{name} ended.\n{self.environment.processes.tail(name)}")
            if time.monotonic() > deadline:
                tails = "\n".join(self.environment.processes.tail(name) for name in names)
                raise StartFailed(f"{found} of {events} events, and none for {within:.0f} s.\n{tails}")
            time.sleep(0.1)

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.downstream_url}{path}", timeout=10) as answer:
            return bytes(answer.read())

    # The API server

    def meter(self, names: tuple[str, ...]) -> Meter:
        """Of the shared parts and these processes."""
        found = {name: self._process(name) for name in (*SHARED, *names)}
        return Meter(self.kube, self.environment.command("etcd").url, found)

    def _process(self, name: str) -> psutil.Process:
        process = self.environment.processes.find(name)
        if process is None:
            raise StartFailed(f"{name} does not run.\n{self.environment.processes.tail(name)}")
        return process

    def unfinished(self, stream: str) -> int:
        return len(self._updates(f"spec.stream={stream},status.phase!=Succeeded"))

    def waiting(self, stream: str) -> int:
        """Updates whose status says that they wait."""
        return len(self._updates(f"spec.stream={stream},status.phase=Waiting"))

    def _updates(self, selector: str = "") -> list[str]:
        """Paths of the updates, by one list of metadata."""
        query = {"fieldSelector": selector, "limit": "100000"}
        only = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
        page = self.kube.call("GET", self.kube.path(NAMESPACE, "userupdates"), params=query, headers=only)
        return [self.kube.path(NAMESPACE, "userupdates", item["metadata"]["name"]) for item in page["items"] or ()]

    def empty(self) -> None:
        """Remove all streams, updates and Leases: the store does not grow from run to run."""
        for plural in ("updatestreams", "userbacklogs", "rejectedevents"):
            for item in self.kube.list(NAMESPACE, plural):
                self.kube.delete(NAMESPACE, plural, item["metadata"]["name"])
        with ThreadPoolExecutor(8) as pool:
            for answer in pool.map(self.kube.client.delete, self._updates()):
                answer.raise_for_status()
        self.kube.call("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")


@contextmanager
def stage(environment: Environment, progress: Callable[[str], None]) -> Iterator[Stage]:
    """Everything up, new; stopped and removed afterwards, as is what an earlier one that was killed has left."""
    try:
        _clear(environment)
        progress("starting etcd, kube-apiserver, Kafka and the downstream")
        lifecycle.up_infrastructure(environment, tuned=True)
        environment.stop("downstream")  # the sample's: the benchmarks have one of their own
        kube = Kube.connect(environment.kubeconfig)
        with kube.client:
            found = Stage(environment, kube, progress)
            found.start_downstream()
            yield found
    finally:
        _clear(environment)


def _clear(environment: Environment) -> None:
    environment.layout.make()
    environment.processes.recover()
    _kill(environment, [name for name in environment.processes.names() if name not in INFRASTRUCTURE])
    lifecycle.clean(environment)


def _kill(environment: Environment, names: Iterable[str]) -> None:
    for name in names:
        process = environment.processes.find(name)
        for child in process.children(recursive=True) if process else ():
            child.kill()
        environment.kill(name)
