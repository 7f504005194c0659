"""Who is measured: this project, its peers, and the bare limit. Each is started for a run and gone after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tests.benchmarks.stage import NAMESPACE, Stage, Topic

#: Collection is off: nothing is old enough, nor too much.
NO_COLLECTION = {"succeededSeconds": 86400, "failedSeconds": 86400, "maxFinished": 1_000_000}


class Contender(Protocol):
    name: str
    #: Its processes, as the environment knows them.
    processes: tuple[str, ...]

    def start(self, stage: Stage, topic: Topic) -> None:
        """Begin to consume the topic."""

    def recorded(self, stage: Stage, topic: Topic) -> bool:
        """Whether nothing is left to be written of the events whose calls were all made."""

    def stop(self, stage: Stage) -> None:
        """End, and leave nothing behind."""


class Ours:
    """This project: a bridge and a controller, with the defaults but for collection."""

    processes: tuple[str, ...] = ("bridge", "controller")

    def __init__(self, name: str, checkpoints: str, spec: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self._checkpoints = checkpoints
        self._spec = dict(spec or {})

    def start(self, stage: Stage, topic: Topic) -> None:
        for name in self.processes:
            stage.environment.launch(name)
        for name in self.processes:
            stage.environment.wait_ready(name)
        steps = {step: {"url": f"{stage.downstream_url}/{step}"} for step in ("profile", "permissions", "resources")}
        kafka = {"bootstrapServers": stage.environment.bootstrap_servers, "topic": topic.name, "groupId": topic.name}
        spec = {"kafka": kafka, "steps": steps, "checkpoints": self._checkpoints, "retention": NO_COLLECTION}
        stage.kube.create(NAMESPACE, "updatestreams", {"metadata": {"name": topic.name}, "spec": spec | self._spec})

    def recorded(self, stage: Stage, topic: Topic) -> bool:
        return stage.unfinished(topic.name) == 0

    def stop(self, stage: Stage) -> None:
        for name in self.processes:
            stage.environment.kill(name)
        stage.empty()


class BareLimit:
    """See `limit`."""

    processes: tuple[str, ...] = ("limit",)

    def __init__(self, name: str, concurrency: int) -> None:
        self.name = name
        self._concurrency = concurrency

    def start(self, stage: Stage, topic: Topic) -> None:
        options = {
            "bootstrap-servers": stage.environment.bootstrap_servers,
            "topic": topic.name,
            "topic-id": topic.id,
            "stream": topic.name,
            "namespace": NAMESPACE,
            "downstream": stage.downstream_url,
            "concurrency": str(self._concurrency),
            "creator": str(stage.environment.account_kubeconfig("bridge")),
            "patcher": str(stage.environment.account_kubeconfig("controller")),
        }
        flat = [part for name, value in options.items() for part in (f"--{name}", value)]
        stage.start_python("limit", "tests.benchmarks.limit", *flat)

    def recorded(self, stage: Stage, topic: Topic) -> bool:
        return stage.unfinished(topic.name) == 0

    def stop(self, stage: Stage) -> None:
        stage.environment.kill("limit")
        stage.empty()


def contender(name: str) -> Contender:
    """`every-step`, `coalesced`, `limit`, or `limit-64`: with 64 users at a time. Raises KeyError."""
    if name.startswith("limit"):
        _, _, concurrency = name.partition("-")
        return BareLimit(name, int(concurrency or LIMIT_CONCURRENCY))
    return Ours(name, {"every-step": "EveryStep", "coalesced": "Coalesced"}[name])


#: The best of 8, 16, 32, 64 and 128: see docs/performance.md.
LIMIT_CONCURRENCY = 32
