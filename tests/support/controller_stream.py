"""A stream for tests of the controller: its updates are made by hand, and its downstream is the sample.

No bridge is needed: an administrator may create updates with a `spec.source` too, linked by `after` as the bridge links
them. Each test has a stream name of its own, since the downstream's journal knows no namespaces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from controller.api import names, timestamps
from devenv.environment import Environment
from devenv.journal import STEPS, Call, Expectations, Violation, check, read_calls
from tests.chaos.checkpoints import nanoseconds
from tests.support.background import repeating
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.records import GOOD, TOPIC_ID

REQUEST = names.REQUEST_ANNOTATION
FINISHED = ("Succeeded", "Failed", "Skipped", "Cancelled")
#: For tests that have to pass with either way of checkpointing.
both_checkpoints = pytest.mark.parametrize("checkpoints", ["EveryStep", "Coalesced"])


@dataclass(frozen=True, slots=True)
class ControllerStream:
    """One stream, its updates, and the calls that the downstream got for them. Has an administrator's rights."""

    kube: Kube
    environment: Environment
    namespace: str
    stream: str
    #: EveryStep or Coalesced: what the stream is applied with, and what the journal is held against.
    checkpoints: str = "EveryStep"

    # The stream

    def apply(self, every: dict[str, Any] | None = None, **spec: Any) -> None:
        """Create the stream; `every` is for each of its steps, `profile={…}` and the like for one of them."""
        steps = {
            step: {"url": f"{self.environment.inside.downstream_url}/{step}", **(every or {}), **spec.pop(step, {})}
            for step in STEPS
        }
        kafka = {"bootstrapServers": "127.0.0.1:9", "topic": self.stream}
        spec = {"kafka": kafka, "steps": steps, "checkpoints": self.checkpoints, **spec}
        body = {"metadata": {"name": self.stream}, "spec": spec}
        self.kube.create(self.namespace, "updatestreams", body)

    def change(self, **spec: Any) -> None:
        self.kube.patch(self.namespace, "updatestreams", self.stream, {"spec": spec})

    def remove(self) -> None:
        self.kube.delete(self.namespace, "updatestreams", self.stream)

    def condition(self, kind: str = "Processing") -> dict[str, Any]:
        status = self.kube.get(self.namespace, "updatestreams", self.stream).get("status") or {}
        found = {entry["type"]: entry for entry in status.get("conditions", ())}
        return dict(found.get(kind) or {})

    def lease(self) -> dict[str, Any]:
        """The spec of the stream's Lease; empty where there is none yet."""
        return self.leases().get(names.lease_name(self.stream), {})

    def leases(self) -> dict[str, dict[str, Any]]:
        """The spec of each Lease of the namespace, by name."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        return {item["metadata"]["name"]: item.get("spec", {}) for item in self.kube.call("GET", path)["items"]}

    def holders(self, shards: int) -> list[str]:
        """Who holds the Lease of each shard; empty where nobody does."""
        found = self.leases()
        wanted = [names.lease_name(self.stream, shard, shards) for shard in range(shards)]
        return [found.get(name, {}).get("holderIdentity") or "" for name in wanted]

    def all_held(self, shards: int, within: float = 10) -> list[str]:
        """The holders, once each shard has one."""

        def held() -> list[str]:
            found = self.holders(shards)
            assert all(found), found
            return found

        return eventually(held, within)

    def held_by(self, identity: str, within: float = 10) -> None:
        """Wait until that controller holds the stream's Lease."""
        eventually(lambda: self.lease().get("holderIdentity") == identity or _fail(self.lease()), within)

    def acquired(self) -> int:
        """Wall time in ns at which the holder of the Lease took it."""
        return nanoseconds(self.lease()["acquireTime"])

    # Its updates

    def add(self, user: str = "ana", sequence: int = 1, name: str = "", **spec: Any) -> str:
        """Create an update by hand; its name."""
        name = name or f"{user}-{sequence}"
        spec = {"stream": self.stream, "user": user, "sequence": sequence, **GOOD, **spec}
        self.kube.create(self.namespace, "userupdates", {"metadata": {"name": name}, "spec": spec})
        return name

    def record(
        self,
        user: str,
        offset: int,
        time: datetime,
        *,
        after: int | None = None,
        partition: int = 0,
        topic_id: str = TOPIC_ID,
    ) -> str:
        """Create an update as the bridge would make it of the record at `offset`; its name."""
        source = {
            "topic": self.stream,
            "topicId": topic_id,
            "partition": partition,
            "offset": offset,
            "timestamp": timestamps.to_text(time),
        }
        if after is not None:
            source["after"] = self.record_name(after, partition, topic_id)
        return self.add(user, offset, self.record_name(offset, partition, topic_id), source=source)

    def record_name(self, offset: int, partition: int = 0, topic_id: str = TOPIC_ID) -> str:
        return names.record_name(self.stream, topic_id, partition, offset)

    def records(self, users: Sequence[str], each: int, time: datetime) -> list[tuple[str, int]]:
        """`each` records of every user, in turns, on one partition; created by eight at once. (user, offset) of all."""
        made = [(user, turn * len(users) + index) for turn in range(each) for index, user in enumerate(users)]

        def create(of_user: int) -> None:
            last: int | None = None
            for user, offset in made[of_user :: len(users)]:
                self.record(user, offset, time, after=last)
                last = offset

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(create, range(len(users))))
        return made

    @contextmanager
    def coming(self, users: Sequence[str], every: float) -> Iterator[list[tuple[str, int]]]:
        """A record of each user every so many seconds as long as it is entered; (user, offset) of all so far."""
        made: list[tuple[str, int]] = []

        def create() -> None:
            first = len(made)
            for index, user in enumerate(users):
                after = first + index - len(users) if first else None
                self.record(user, first + index, datetime.now(UTC), after=after)
                made.append((user, first + index))

        with repeating(create, every):
            yield made

    def get(self, name: str) -> dict[str, Any]:
        return self.kube.get(self.namespace, "userupdates", name)

    def status(self, name: str) -> dict[str, Any]:
        return dict(self.get(name).get("status") or {})

    def reason(self, name: str) -> str:
        return str(_reason(self.get(name)))

    def ask(self, name: str, request: str) -> None:
        """`retry`, `skip`, `cancel`, `restart`."""
        self.kube.patch(self.namespace, "userupdates", name, {"metadata": {"annotations": {REQUEST: request}}})

    def suspend(self, name: str, on: bool = True) -> None:
        self.kube.patch(self.namespace, "userupdates", name, {"spec": {"suspend": on}})

    def delete(self, name: str) -> None:
        self.kube.delete(self.namespace, "userupdates", name)

    def until(self, name: str, phase: str, reason: str | None = None, within: float = 10) -> dict[str, Any]:
        """The status of an update once it says so."""

        def there() -> dict[str, Any]:
            update = self.get(name)
            status = dict(update.get("status") or {})
            assert status.get("phase") == phase, f"{name}: {json.dumps(status)}"
            assert reason in (None, _reason(update)), f"{name}: {json.dumps(status)}"
            return status

        return eventually(there, within)

    def phases(self) -> dict[str, str | None]:
        """Phase by name, of all updates."""
        found = self.kube.list(self.namespace, "userupdates")
        return {item["metadata"]["name"]: (item.get("status") or {}).get("phase") for item in found}

    def events(self) -> list[tuple[str, str, str]]:
        """(object, type, reason) of the Kubernetes Events of the namespace, by time."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        found: list[dict[str, Any]] = self.kube.call("GET", path)["items"]
        found.sort(key=lambda event: str(event["eventTime"]))
        return [(event["regarding"]["name"], event["type"], event["reason"]) for event in found]

    def all_finished(self, within: float = 30, phase: str = "Succeeded") -> None:
        def finished() -> bool:
            # The others alone are asked for: each look at all of a thousand takes the API server's time.
            found = self.kube.list(self.namespace, "userupdates", fieldSelector=f"status.phase!={phase}")
            others = {item["metadata"]["name"]: (item.get("status") or {}).get("phase") for item in found}
            return not others or _fail(f"{len(others)} are not {phase}: {dict(list(others.items())[:5])}")

        eventually(finished, within, every=0.2)

    # The downstream

    def rules(self, *rules: dict[str, Any], latency: float = 0.0) -> None:
        """How the downstream misbehaves; without rules it does not."""
        document = {"latencySeconds": latency, "rules": [{"stream": self.stream, **rule} for rule in rules]}
        answer = httpx.put(
            f"{self.environment.downstream_url}/control/rules", json=document, timeout=30, trust_env=False
        )
        assert answer.is_success, answer.text

    def calls(self, user: str | None = None) -> list[Call]:
        """The calls so far, of one user where given."""
        answer = httpx.get(f"{self.environment.downstream_url}/journal", timeout=30, trust_env=False)
        found = read_calls(map(json.loads, answer.text.splitlines()))
        return [call for call in found if call.stream == self.stream and user in (None, call.user)]

    def called(self, count: int, user: str | None = None, within: float = 10) -> list[Call]:
        """The calls, once there are so many."""

        def enough() -> list[Call]:
            found = self.calls(user)
            assert len(found) >= count, found
            return found

        return eventually(enough, within)

    def violations(self, **expected: Any) -> list[Violation]:
        """What breaks the guarantees; see devenv.journal.Expectations."""
        coalesced = self.checkpoints == "Coalesced"
        return check(self.calls(), Expectations(coalesced=coalesced, recorded=self._recorded(), **expected))

    def _recorded(self) -> dict[str, int]:
        """When the answers that the API server has now were given, in ns, by idempotency key."""
        found = self.kube.list(self.namespace, "userupdates")
        return {
            _key(update, step["name"]): nanoseconds(step["completionTime"])
            for update in found
            for step in (update.get("status") or {}).get("steps", ())
        }


def steps(calls: Iterable[Call]) -> list[tuple[str, int | None, str]]:
    """(user, sequence, step) of each call, in order."""
    return [(call.user, call.sequence, call.step) for call in calls]


def all_steps(user: str, *sequences: int) -> list[tuple[str, int | None, str]]:
    """What `steps` returns when a user's updates run one after the other and no call is repeated."""
    return [(user, sequence, step) for sequence in sequences for step in STEPS]


def make_controller_stream(
    kube: Kube, environment: Environment, namespace: str, checkpoints: str = "EveryStep"
) -> ControllerStream:
    """A stream for one test. Clears the downstream's journal and its rules."""
    for path in ("journal", "control/rules"):
        httpx.delete(f"{environment.downstream_url}/{path}", timeout=30, trust_env=False).raise_for_status()
    return ControllerStream(kube, environment, namespace, namespace.replace("test", "stream"), checkpoints)


def _key(update: dict[str, Any], step: str) -> str:
    metadata, run = update["metadata"], update["status"].get("run", 0)
    uid = None if "source" in update["spec"] else metadata["uid"]
    return names.idempotency_key(metadata["namespace"], metadata["name"], step, run, uid)


def _reason(update: dict[str, Any]) -> str | None:
    conditions = (update.get("status") or {}).get("conditions") or [{}]
    reason: str | None = conditions[0].get("reason")
    return reason


def _fail(value: Any) -> bool:
    raise AssertionError(f"is {value}")
