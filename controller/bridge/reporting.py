"""What the bridge writes to `UpdateStream.status`: its partitions' entries and the condition Consuming."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from controller.bridge import positions
from controller.bridge.partitions import Partition, Partitions
from controller.bridge.positions import Entry
from controller.crashpoints import reach
from controller.kafka import Topic
from controller.presence import Presence
from controller.streamstatus import NO_BRIDGE, StreamStatus, condition, with_condition

#: What has changed is written within this time, at most once a second.
LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Consuming:
    """The condition, as computed from that generation of the spec."""

    ok: bool | None
    reason: str
    message: str
    generation: int

    def write(self, status: Mapping[str, Any]) -> dict[str, Any]:
        known = condition(status, "Consuming")
        if self.ok is None and known and known["reason"] == self.reason:
            return dict(status)  # somebody else has said so, in their words
        return with_condition(
            status,
            "Consuming",
            self.ok,
            self.reason,
            self.message,
            generation=self.generation,
            now=datetime.now(UTC),
        )


def unless_unseen(consuming: Consuming, presence: Presence) -> Consuming:
    """What this bridge says where others may take it for dead, and say so: the same, so that they do not take turns."""
    trouble = presence.trouble
    return Consuming(None, NO_BRIDGE, trouble, consuming.generation) if trouble else consuming


@dataclass(frozen=True, slots=True)
class Counts:
    """Objects of the stream that the bridge makes, of all replicas; None: not known yet."""

    #: UserBacklogs: users with more waiting than fits.
    overflowing: int | None
    #: RejectedEvents.
    rejected: int | None

    def write(self, status: Mapping[str, Any]) -> dict[str, Any]:
        written = dict(status)
        if self.overflowing is not None:
            written["users"] = {**(status.get("users") or {}), "overflowing": self.overflowing}
        if self.rejected is not None:
            written["counts"] = {**(status.get("counts") or {}), "rejected": self.rejected}
        return written


class Reporter:
    """One topic's entries, those of this replica's partitions only."""

    def __init__(
        self,
        status: StreamStatus,
        topic: Topic,
        partitions: Partitions,
        condition: Callable[[], Consuming | None],
        counts: Callable[[], Counts],
    ) -> None:
        self._status = status
        self._topic = topic
        self._partitions = partitions
        #: None: another replica's to tell.
        self._condition = condition
        self._counts = counts
        self._written: object = None

    def verify(self) -> None:
        """Read the status soon, changed or not."""
        self._written = None

    async def run(self) -> None:
        """Write what has changed. Raises NotFound when the stream is gone, WentBack when it forgot what was written."""
        while True:
            if self._current() != self._written:
                await self.write()
            await asyncio.sleep(LOOK_SECONDS)

    async def write(self) -> None:
        """Positions as they are when the write begins; `recorded` of each partition once it is done."""
        proposed: dict[Partition, int] = {}

        def change(status: dict[str, Any]) -> dict[str, Any]:
            recorded = {p.number: p.recorded for p in self._partitions.known if p.recorded is not None}
            positions.check_not_back(status, self._topic.id, recorded)
            proposed.clear()
            proposed.update((p, p.position) for p in self._partitions.known)
            self._written = self._current()
            return self._changed(status)

        reach("bridge.position")
        await self._status.apply(change)
        reach("bridge.positioned")
        for partition, position in proposed.items():
            partition.recorded = position

    def _changed(self, status: dict[str, Any]) -> dict[str, Any]:
        status = positions.with_entries(status, self._entries())
        status = self._counts().write(status)
        condition = self._condition()
        return condition.write(status) if condition else status

    def _entries(self) -> list[Entry]:
        return [
            Entry(self._topic.name, self._topic.id, p.number, p.position, p.committed, p.lag)
            for p in self._partitions.known
        ]

    def _current(self) -> object:
        return self._entries(), self._condition(), self._counts()
