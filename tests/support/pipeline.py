"""A stream with both processes: from records in Kafka to calls of the sample downstream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from devenv.environment import Environment
from devenv.journal import STEPS, Call, Expectations, check
from tests.chaos.run import read_journal
from tests.support.bridge_stream import BridgeStream
from tests.support.controller_stream import ControllerStream, make_controller_stream
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.records import GOOD

UNFINISHED = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Skipped,status.phase!=Cancelled"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One stream from its topic (`ingested`) to its downstream (`processing`)."""

    ingested: BridgeStream
    processing: ControllerStream

    def apply(self, every: dict[str, Any] | None = None, **spec: Any) -> None:
        """Create the stream; `every` is for each of its steps."""
        url = self.processing.environment.inside.downstream_url
        steps = {step: {"url": f"{url}/{step}", **(every or {})} for step in STEPS}
        self.ingested.apply(steps=steps, **spec)

    def produce(self, users: list[str], each: int, profile: str = "dev") -> int:
        """`each` records of every user, in turns, on the first partition; how many."""
        self.ingested.produce((user, {**GOOD, "profile": profile}) for _ in range(each) for user in users)
        return len(users) * each

    def finished(self) -> int:
        """Updates whose last step was done, by the downstream's count: the journal of a flood is long to read."""
        return int(self._stats()["applied"][STEPS[-1]])

    def in_flight(self) -> int:
        """Calls that the downstream has not answered yet."""
        return int(self._stats()["inFlight"])

    def journal(self) -> list[Call]:
        """The stream's calls so far, from the file: that of a flood is too long for an answer."""
        folder = self.processing.environment.layout.data / "downstream"
        return read_journal(folder / "journal.jsonl", self.processing.stream)

    def applied_once(self, users: list[str]) -> None:
        """Each record that was produced, by its user, was applied, once and in order, and nothing else was."""
        made = [(user, offset) for offset, user in enumerate(users)]
        assert check(self.journal(), Expectations(finished=made, only=made)) == []

    def finished_of(self, user: str) -> int:
        """The same for one user, by the journal."""
        return sum(call.step == STEPS[-1] and call.applied for call in self.processing.calls(user))

    def done(self, count: int, within: float) -> None:
        """Wait until so many have gone through all steps."""
        eventually(lambda: self.finished() >= count or _fail(self.finished(), count), within, every=0.5)

    def unfinished(self, *, cached: bool = False) -> int:
        """Unfinished updates of the stream, by the API server's own count.

        `cached`: as its watch cache has it. A consistent list waits for that cache, and reads all objects from etcd
        where it lags: in a flood, half a minute of an API server's work for one look.
        """
        return self._count(UNFINISHED, cached=cached)

    def objects(self) -> int:
        """All updates of the namespace, finished or not."""
        return self.ingested.count()

    def recorded(self, phase: str = "Succeeded") -> int:
        """Updates in that phase, by the API server."""
        return self._count(f"status.phase={phase}")

    def _stats(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.processing.environment.downstream_url}/stats", timeout=30, trust_env=False)
        return dict(answer.json())

    def _count(self, selector: str, *, cached: bool = False) -> int:
        path = self.ingested.kube.path(self.ingested.namespace, "userupdates")
        only = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
        query = {"fieldSelector": f"spec.stream={self.ingested.name},{selector}", "limit": "100000"}
        if cached:
            query["resourceVersion"] = "0"
        page = self.ingested.kube.call("GET", path, params=query, headers=only)
        return len(page["items"] or ())

    def all_recorded(self, count: int, within: float = 30) -> None:
        """Wait until the API server says of all of them that they succeeded."""
        eventually(lambda: self.recorded() == count or _fail(self.recorded(), count), within, every=0.5)


def make_pipeline(kube: Kube, environment: Environment, namespace: str, topic: str) -> Pipeline:
    """A pipeline for one test. The stream has the topic's name, so that the journal can tell it from others."""
    served = make_controller_stream(kube, environment, namespace)
    inside = environment.inside.bootstrap_servers
    ingested = BridgeStream(kube, environment.bootstrap_servers, namespace, topic, name=served.stream, inside=inside)
    return Pipeline(ingested, served)


def _fail(value: int, wanted: int) -> bool:
    raise AssertionError(f"{value} of {wanted}")
