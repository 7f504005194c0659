"""A stream for tests of the bridge: they produce records to its topic and look at what the bridge makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import confluent_kafka as ck

from devenv import broker
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.records import GOOD

NOWHERE = "http://127.0.0.1:9/none"


@dataclass(frozen=True, slots=True)
class BridgeStream:
    """One stream, its topic and its namespace. Has an administrator's rights."""

    kube: Kube
    bootstrap: str
    namespace: str
    topic: str
    name: str = "events"
    #: Where the bridge reaches Kafka; empty: at `bootstrap`, as we do.
    inside: str = ""

    def apply(self, *, kafka: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
        """Create the stream; its downstream is nowhere."""
        body = {
            "kafka": {"bootstrapServers": self.inside or self.bootstrap, "topic": self.topic, "groupId": self.topic}
            | (kafka or {}),
            "steps": {step: {"url": NOWHERE} for step in ("profile", "permissions", "resources")},
            **spec,
        }
        return self.kube.create(self.namespace, "updatestreams", {"metadata": {"name": self.name}, "spec": body})

    def change(self, **spec: Any) -> None:
        self.kube.patch(self.namespace, "updatestreams", self.name, {"spec": spec})

    def drain(self, within: float) -> None:
        """Finish updates, as a controller would, until no backlog is left; for so many seconds at most."""

        def drained() -> bool:
            for update in self.unfinished():
                self.finish(update)
            return not self.backlogs()

        eventually(drained, within)

    def make_topic_again(self, partitions: int = 1) -> None:
        """Under another id, without records."""
        broker.delete_topic(self.bootstrap, self.topic)
        broker.create_topic(self.bootstrap, self.topic, partitions)

    def produce(self, records: Iterable[tuple[Any, Any]], partition: int = 0) -> None:
        """(key, value): a value that is neither bytes nor None is written as JSON."""
        failed: list[str] = []

        def told(error: Any, _: Any) -> None:
            if error:
                failed.append(str(error))

        producer = ck.Producer({"bootstrap.servers": self.bootstrap, "message.max.bytes": 8 << 20, "linger.ms": 5})
        for key, value in records:
            data = value if isinstance(value, bytes | None) else json.dumps(value).encode()
            while True:
                try:
                    producer.produce(self.topic, key=key, value=data, partition=partition, on_delivery=told)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush(30)
        assert not failed, failed[0]

    def status(self) -> dict[str, Any]:
        return dict(self.kube.get(self.namespace, "updatestreams", self.name).get("status") or {})

    def condition(self, kind: str = "Consuming") -> dict[str, Any]:
        found = {entry["type"]: entry for entry in self.status().get("conditions", ())}
        return dict(found.get(kind) or {})

    def reason(self, reason: str, within: float = 15) -> None:
        """Wait until Consuming says that."""
        eventually(lambda: self.condition().get("reason") == reason or _fail(self.condition()), within)

    def entry(self, partition: int = 0) -> dict[str, Any]:
        """The entry of a partition of the topic; of several topic ids the last one."""
        entries = [entry for entry in self.status().get("partitions", ()) if entry["partition"] == partition]
        return dict(entries[-1]) if entries else {}

    def positioned(self, position: int, within: float = 20, partition: int = 0) -> None:
        """Wait until the status and Kafka's commit are there."""

        def there() -> bool:
            entry = self.entry(partition)
            return (entry.get("position"), entry.get("committed")) == (position, position) or _fail(entry)

        eventually(there, within)

    def updates(self, **query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            path = self.kube.path(self.namespace, "userupdates")
            body = self.kube.call("GET", path, params={"limit": "1000", **query})
            found += body["items"]
            if not (token := body["metadata"].get("continue")):
                return sorted(found, key=lambda item: item["metadata"]["name"])
            query["continue"] = token

    def count(self) -> int:
        """How many updates there are, finished or not: the API server tells, and lists one of them."""
        page = self.kube.call("GET", self.kube.path(self.namespace, "userupdates"), params={"limit": "1"})
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))

    def offsets(self) -> list[tuple[int, int]]:
        """(partition, offset) of all updates, sorted."""
        sources = [update["spec"]["source"] for update in self.updates() if "source" in update["spec"]]
        return sorted((source["partition"], source["offset"]) for source in sources)

    def has_made(self, expected: list[tuple[int, int]], within: float = 60) -> None:
        """Wait until these are the records that updates are made of, by partition and offset.

        The position also passes records that wait in UserBacklogs. Some do where the machine is so busy that a user's
        create takes seconds.
        """

        def made() -> bool:
            return (found := self.offsets()) == expected or _fail(found)

        eventually(made, within)

    def rejected(self) -> list[dict[str, Any]]:
        return [item["spec"] for item in self.kube.list(self.namespace, "rejectedevents")]

    def backlogs(self) -> list[dict[str, Any]]:
        return self.kube.list(self.namespace, "userbacklogs")

    def finish(self, update: dict[str, Any]) -> None:
        """Succeeded, as the controller would say."""
        condition = {
            "type": "Succeeded",
            "status": "True",
            "reason": "Succeeded",
            "message": "done",
            "lastTransitionTime": "2026-11-23T12:00:00Z",
        }
        status = {"status": {"phase": "Succeeded", "conditions": [condition]}}
        self.kube.patch(self.namespace, "userupdates", update["metadata"]["name"], status, status=True)

    def unfinished(self) -> list[dict[str, Any]]:
        return self.updates(fieldSelector=f"spec.stream={self.name},status.phase!=Succeeded")


def good(users: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """A record with a GOOD value for each user."""
    for user in users:
        yield user, GOOD


def users(count: int, each: int) -> list[str]:
    """The users of `each` records for each of `count` users, in turns."""
    return [f"user{number}" for _ in range(each) for number in range(count)]


def first_offsets(count: int, partition: int = 0) -> list[tuple[int, int]]:
    """(partition, offset) of the first `count` records."""
    return [(partition, offset) for offset in range(count)]


def check_links(updates: Iterable[dict[str, Any]]) -> None:
    """Assert that each update of a user names the one before it in `after`, as where none was finished."""
    last: dict[tuple[str, int, str], str] = {}
    for update in sorted(updates, key=lambda item: item["spec"]["source"]["offset"]):
        source = update["spec"]["source"]
        key = source["topicId"], source["partition"], update["spec"]["user"]
        assert source.get("after") == last.get(key), update["metadata"]["name"]
        last[key] = update["metadata"]["name"]


@contextmanager
def group_consumer(bootstrap: str, group: str) -> Iterator[ck.Consumer]:
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    try:
        yield consumer
    finally:
        consumer.close()


def _fail(value: Any) -> bool:
    raise AssertionError(f"is {value}")
