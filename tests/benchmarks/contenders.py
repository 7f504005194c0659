"""Who is measured: this project, its peers, and the bare limit. Each is started for a run and gone after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from tests.benchmarks.peers import Restate
from tests.benchmarks.stage import NAMESPACE, Stage, Topic

#: Collection is off: nothing is old enough, nor too much.
NO_COLLECTION = {"succeededSeconds": 86400, "failedSeconds": 86400, "maxFinished": 1_000_000}


STEPS = ("profile", "permissions", "resources")


class Contender(Protocol):
    name: str
    #: Its processes, as the environment knows them.
    processes: tuple[str, ...]

    def start(self, stage: Stage, topic: Topic) -> None:
        """Begin to consume the topic."""

    def recorded(self, stage: Stage, topic: Topic, left: int) -> bool:
        """Whether all but `left` updates are finished, and those are recorded as waiting."""

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
        self.apply(stage, topic)

    def apply(self, stage: Stage, topic: Topic) -> None:
        """Create the UpdateStream."""
        steps = {step: {"url": f"{stage.downstream_url}/{step}"} for step in STEPS}
        kafka = {"bootstrapServers": stage.environment.bootstrap_servers, "topic": topic.name, "groupId": topic.name}
        spec = {"kafka": kafka, "steps": steps, "checkpoints": self._checkpoints, "retention": NO_COLLECTION}
        for field, value in self._spec.items():
            if field == "steps":
                spec["steps"] = {step: settings | value for step, settings in steps.items()}
            else:
                spec[field] = value
        stage.kube.create(NAMESPACE, "updatestreams", {"metadata": {"name": topic.name}, "spec": spec})

    def recorded(self, stage: Stage, topic: Topic, left: int) -> bool:
        return stage.unfinished(topic.name) <= left and (not left or stage.waiting(topic.name) == left)

    def stop(self, stage: Stage) -> None:
        stage.kill(*self.processes)
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

    def recorded(self, stage: Stage, topic: Topic, left: int) -> bool:
        return stage.unfinished(topic.name) == 0

    def stop(self, stage: Stage) -> None:
        stage.kill(*self.processes)
        stage.empty()


def contender(name: str, spec: Mapping[str, Any] | None = None) -> Contender:
    """By its name; `spec`: what differs in the UpdateStream of this project. Raises ValueError.

    `limit-64`: the limit with 64 users at a time; `restate-python-4`: Restate with 4 partitions.
    """
    for prefix, maker in _MAKERS.items():
        if name == prefix or name.removeprefix(f"{prefix}-").isdecimal():
            number = name.removeprefix(prefix).lstrip("-")
            return maker(name, int(number) if number else None, spec or {})
    raise ValueError(f"no contender of the name {name!r}; there are {', '.join(_MAKERS)}")


def _restate(service: str) -> _Maker:
    return lambda name, number, spec: Restate(name, service, partitions=number or PARTITIONS)


_Maker: TypeAlias = Callable[[str, int | None, Mapping[str, Any]], Contender]
#: The best of those that were tried: see docs/performance.md.
LIMIT_CONCURRENCY = 32
PARTITIONS = 4
_MAKERS: Mapping[str, _Maker] = {
    "every-step": lambda name, number, spec: Ours(name, "EveryStep", spec),
    "coalesced": lambda name, number, spec: Ours(name, "Coalesced", spec),
    "restate-python": _restate("restate-python"),
    "restate-typescript": _restate("restate-typescript"),
    "limit": lambda name, number, spec: BareLimit(name, number or LIMIT_CONCURRENCY),
}
