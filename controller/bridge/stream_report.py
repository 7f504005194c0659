"""Writes to `UpdateStream.status`: the entries of this replica's partitions, counts, and the condition Consuming."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from controller import failpoints
from controller.bridge import positions
from controller.bridge.consuming_condition import ConsumerHealth
from controller.bridge.context import ConsumerContext
from controller.bridge.partitions import Partition
from controller.bridge.positions import Entry
from controller.errors import ApiError, NotFound

#: Seconds between looks at what has changed.
LOOK_SECONDS = 0.25
#: Seconds between counts of the records in backlogs, which may change all the time when nothing else does.
BACKLOG_SECONDS = 5.0
#: Seconds until a refused write is tried again, doubled each time.
FIRST_DELAY, MAX_DELAY = 1.0, 15.0


class StreamReporter:
    """Reports one consumer."""

    def __init__(self, context: ConsumerContext, health: ConsumerHealth) -> None:
        self._context = context
        self._topic = context.topic
        self._partitions = context.partitions
        self._health = health
        self._written: object = None
        #: Records of each partition that are listed in backlogs, and when they were counted, by the monotonic clock.
        self._backlog: dict[Partition, int] = {}
        self._backlog_at = float("-inf")

    def verify(self) -> None:
        """Read the status soon, changed or not."""
        self._written = None

    async def run(self) -> None:
        """Write what has changed. Raises NotFound when the stream is gone, Outdated when its status says otherwise."""
        delay = FIRST_DELAY
        while True:
            try:
                if self._current() != self._written:
                    await self.write()
                delay = FIRST_DELAY
            except NotFound:
                raise
            except ApiError:
                await asyncio.sleep(delay)
                delay = min(2 * delay, MAX_DELAY)
            await asyncio.sleep(LOOK_SECONDS)

    async def write(self) -> None:
        """Write positions as they are when the write begins. Each partition has them as `recorded` once it is done.

        Raises NotFound and Outdated as `run` does; another ApiError when the API server refuses: the condition says so.
        """
        proposed: dict[Partition, int] = {}

        def change(status: dict[str, Any]) -> dict[str, Any]:
            known = sorted(self._partitions.known, key=lambda p: p.position)
            recorded = {p.number: p.recorded for p in known if p.recorded is not None}
            held = {p.number: p.position for p in known if not p.revoked}
            positions.check_known(status, self._topic.id, recorded, held)
            ahead = positions.known(status, self._topic.id)
            proposed.clear()
            # A revoked partition may have moved on with its next owner, which may be this replica again.
            proposed.update((p, p.position) for p in known if p.position >= ahead.get(p.number, 0))  # the highest last
            self._written = self._current()
            return self._changed(status, proposed)

        failpoints.evaluate("bridge.position")
        try:
            await self._context.status.apply(change)
        except NotFound:
            raise
        except ApiError as error:
            self._written = None
            await self._report_refused(error)
            raise
        failpoints.evaluate("bridge.positioned")
        for partition, position in proposed.items():
            partition.recorded = position

    async def _report_refused(self, error: ApiError) -> None:
        """Write the condition alone: the API server may accept it where it refuses the list of positions."""
        message = f"the API server refuses the positions, so that none is committed: {error}"
        if condition := self._health.condition():
            refused = replace(condition, ok=False, reason="StatusRefused", message=message)
            try:
                await self._context.status.apply(refused.write)
            except NotFound:
                raise
            except ApiError:
                pass  # it is in the log, and counted

    def _changed(self, status: dict[str, Any], proposed: Mapping[Partition, int]) -> dict[str, Any]:
        entries = [self._entry(partition, position) for partition, position in proposed.items()]
        status = positions.with_entries(status, self._topic.id, entries, certain=self._context.topic_is_certain)
        status = self._context.counts.write(positions.with_backlog(status, self._topic.id))
        condition = self._health.condition()
        return condition.write(status) if condition else status

    def _entry(self, partition: Partition, position: int) -> Entry:
        topic, backlog = self._topic, self._backlog.get(partition)
        return Entry(
            topic.name, topic.id, partition.number, position, partition.committed, partition.lag, backlog=backlog
        )

    def _current(self) -> object:
        if (now := time.monotonic()) - self._backlog_at >= BACKLOG_SECONDS:
            self._backlog_at, self._backlog = now, {p: p.backlog for p in self._partitions.known if not p.revoked}
        entries = [self._entry(partition, partition.position) for partition in self._partitions.known]
        return entries, self._health.condition(), self._context.counts, self._context.topic_is_certain
