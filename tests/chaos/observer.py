"""Looks at the API server while a run goes on: a watch of every UserUpdate, and samples of the whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller import errors
from controller.clients.cluster import BACKLOGS, REJECTED, STREAMS, UPDATES, Body, Cluster, Listing
from controller.clients.reflector import reflect
from tests.chaos.checkpoints import nanoseconds
from tests.chaos.history import Sample, Sighting
from tests.chaos.records import waiting_offsets

SAMPLE_SECONDS = 2.0
_FINISHED = ("Succeeded", "Failed", "Skipped", "Cancelled")
_UNFINISHED = ",".join(f"status.phase!={phase}" for phase in _FINISHED)


@dataclass(slots=True)
class Observer:
    """Everything that was seen so far; `updates` is what exists now."""

    cluster: Cluster
    namespace: str
    stream: str
    updates: dict[str, Body] = field(default_factory=dict)
    sightings: list[Sighting] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    #: The stream as it was read last.
    stream_body: Body = field(default_factory=dict)

    async def watch(self) -> None:
        """Until cancelled."""
        async for change in reflect(self.cluster, UPDATES, self.namespace):
            now = time.time_ns()
            if isinstance(change, Listing):
                self._listed(change, now)
            elif change.type != "BOOKMARK":
                self._seen(change.object, now, deleted=change.type == "DELETED")

    async def sample(self) -> None:
        """Until cancelled; an API server that is away is looked at later."""
        while True:
            try:
                self.samples.append(await self._sample())
            except errors.ApiError:
                pass
            await asyncio.sleep(SAMPLE_SECONDS)

    @property
    def positions(self) -> dict[int, int]:
        """By partition, as read last."""
        return {entry["partition"]: entry["position"] for entry in _entries(self.stream_body)}

    @property
    def progress(self) -> tuple[int, int, int]:
        """Grows while anything gets on."""
        finished = sum(phase(body) in _FINISHED for body in self.updates.values())
        return finished, len(self.updates), sum(self.positions.values())

    def _listed(self, listing: Listing, now: int) -> None:
        there = {body["metadata"]["name"] for body in listing.items}
        for name in self.updates.keys() - there:
            self._seen(self.updates[name], now, deleted=True)
        for body in listing.items:
            self._seen(body, now)

    def _seen(self, body: Body, now: int, *, deleted: bool = False) -> None:
        name = body["metadata"]["name"]
        if body["spec"]["stream"] != self.stream:
            return
        if deleted:
            self.updates.pop(name, None)
        else:
            self.updates[name] = body
        self.sightings.append(_sighting(body, now, deleted))

    async def _sample(self) -> Sample:
        """What is promised first, then where it may go to: so nothing is missed on its way."""
        stream = await self.cluster.get(STREAMS, self.namespace, self.stream)
        backlogs = await self.cluster.list(BACKLOGS, self.namespace)
        updates = await self.cluster.list(UPDATES, self.namespace, metadata_only=True)
        unfinished = await self.cluster.list(
            UPDATES, self.namespace, field_selector=f"spec.stream={self.stream},{_UNFINISHED}", metadata_only=True
        )
        rejected = await self.cluster.list(REJECTED, self.namespace)
        self.stream_body = stream
        return Sample(
            time_ns=time.time_ns(),
            positions={(entry["topicId"], entry["partition"]): entry["position"] for entry in _entries(stream)},
            updates=frozenset(body["metadata"]["name"] for body in updates.items),
            unfinished=len(unfinished.items),
            rejected=tuple(_ranges(rejected.items)),
            backlogs=len(backlogs.items),
            backlogged=frozenset(_backlogged(backlogs.items)),
        )


def phase(body: Mapping[str, Any]) -> str | None:
    """The phase of a UserUpdate."""
    found: str | None = (body.get("status") or {}).get("phase")
    return found


def _sighting(body: Body, now: int, deleted: bool) -> Sighting:
    status = body.get("status") or {}
    due = status.get("nextAttemptTime")
    return Sighting(
        time_ns=now,
        name=body["metadata"]["name"],
        uid=body["metadata"]["uid"],
        user=body["spec"]["user"],
        deleted=deleted,
        phase=status.get("phase"),
        run=status.get("run", 0),
        steps=tuple(step["name"] for step in status.get("steps", ())),
        attempts=status.get("attempts", 0),
        busy_count=status.get("busyCount", 0),
        next_attempt_ns=nanoseconds(due) if due else None,
    )


def _entries(stream: Mapping[str, Any]) -> list[dict[str, Any]]:
    return (stream.get("status") or {}).get("partitions") or []


def _backlogged(backlogs: list[Body]) -> Iterator[tuple[int, int]]:
    for body in backlogs:
        for entry in body["spec"].get("partitions", ()):
            yield from ((entry["partition"], offset) for offset in waiting_offsets(entry["offsets"]))


def _ranges(rejected: list[Body]) -> Iterator[tuple[int, int, int]]:
    for body in rejected:
        source = body["spec"]["source"]
        yield source["partition"], source["offset"], source.get("lastOffset", source["offset"])
