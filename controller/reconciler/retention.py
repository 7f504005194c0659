"""Deletes finished updates when their time has come, but not while Kafka may deliver their record again.

By a finished update the bridge recognizes a repeated record. So it is deleted only when its offset is below `position`,
below the last commit that Kafka acknowledged, and in no UserBacklog; and a minute after its end at the earliest, as a
create that was cut off by a time-out or by a frozen bridge may still arrive. No record of a deleted topic can be
delivered again, so updates of such a topic are deleted by age alone. The stream's status says that a topic id is gone.
An id that the status does not list does not count as gone: the bridge may be about to list it.

Updates that were made by hand stay, unless they say for how long (`spec.ttlSecondsAfterFinished`): a tool that applies
manifests again and again would create a deleted one anew, and it would run again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from controller import errors, failpoints
from controller.api.update_stream import Retention
from controller.api.user_backlog import offsets_in_entry
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import FINISHED, Phase
from controller.clients.cluster import BACKLOGS, STREAMS, UPDATES, Body
from controller.logs import retrying
from controller.reconciler import metrics
from controller.reconciler.context import ShardContext
from controller.reconciler.refusal_writer import RefusalWriter
from controller.reconciler.update_reader import parse

logger = logging.getLogger(__name__)

#: Topic id and partition, and an offset in it.
Place: TypeAlias = tuple[tuple[str, int], int]

#: Seconds between rounds (with jitter) while nothing is due, and from one to the next while something is.
PERIOD = 5.0
BUSY_PERIOD = 2.5
#: Most deletes in a round.
BATCH = 500
#: Seconds that the deletes of a round are to take, and how many run at a time at most. No more run than that needs: a
#: delete takes 5 ms of an idle API server and most of a second in a flood, which must not outrun the deletes.
DELETING_SECONDS = 2.0
CONCURRENCY = 64
#: Seconds after which the remaining updates are left to the next round, which runs more deletes at a time.
MAX_DELETING_SECONDS = 5.0
#: Seconds that a delete is assumed to take before one was made.
FIRST_SECONDS = 0.05
#: UserBacklogs in a page of a list, which is parsed at once: each may have 200 KB, most have a hundred bytes.
BACKLOGS_AT_ONCE = 50
#: Seconds after which the due updates are computed again at the latest: clocks may be set, and an update that a person
#: has finished by hand may be old.
RECHECK_SECONDS = 20.0
#: Seconds after its end before which no update of a record is deleted.
MIN_AGE = 60.0
#: Updates made by hand may stay for good, and no watch shows that a person deletes one or gives it a time to live. So
#: where there are any, all finished updates are listed again so often.
LIST_SECONDS = 300.0

#: Where there are more than `maxFinished`, updates of the phase with the lowest number are deleted first.
_EXPENDABLE = {Phase.SUCCEEDED: 0, Phase.SKIPPED: 1, Phase.CANCELLED: 1, Phase.FAILED: 2}


@dataclass(frozen=True, slots=True)
class FinishedUpdate:
    """A finished update, as far as its deletion depends on it."""

    name: str
    uid: str
    version: int
    user: str
    phase: Phase
    ended: datetime
    #: (topic id, partition) and offset; None for hand-made ones.
    partition: tuple[str, int] | None
    offset: int
    #: Seconds for which an update made by hand stays; None: until a person deletes it.
    ttl: int | None = None

    @classmethod
    def of(cls, update: UserUpdate) -> FinishedUpdate:
        source, status = update.spec.source, update.status
        assert status.phase
        # Whoever wrote the status by hand may have left the condition out.
        ended = status.completion_time or update.creation_time
        partition = (source.topic_id, source.partition) if source else None
        offset = source.offset if source else 0
        version, ttl = update.resource_version, update.spec.ttl_seconds_after_finished
        return cls(update.name, update.uid, version, update.spec.user, status.phase, ended, partition, offset, ttl)

    @property
    def topic_id(self) -> str | None:
        return self.partition[0] if self.partition else None

    def kept_seconds(self, retention: Retention) -> float:
        """Seconds for which it stays after its end, unless there are too many; infinite where it stays for good."""
        if self.partition is None:
            return math.inf if self.ttl is None else self.ttl
        succeeded = self.phase is Phase.SUCCEEDED
        return max(MIN_AGE, retention.succeeded_seconds if succeeded else retention.failed_seconds)


def due(
    finished: Mapping[str, FinishedUpdate],
    retention: Retention,
    now: datetime,
    may_be_deleted: Callable[[FinishedUpdate], bool] = lambda each: True,
    gone: Set[str] = frozenset(),
) -> list[FinishedUpdate]:
    """Updates that are to be deleted, by age or because there are too many, in the order of their deletion.

    Only updates that `may_be_deleted` are among them: others are deleted in place of those that may not be. Updates of
    a topic id that is `gone` are not counted for `maxFinished`.
    """
    there = [each for each in finished.values() if may_be_deleted(each)]

    def older(each: FinishedUpdate, seconds: float) -> bool:
        return (now - each.ended).total_seconds() >= seconds

    aged = [each for each in there if older(each, each.kept_seconds(retention))]

    def counted(each: FinishedUpdate) -> bool:
        return each.partition is not None and each.topic_id not in gone

    surplus = sum(map(counted, finished.values())) - sum(map(counted, aged)) - retention.max_finished
    if surplus <= 0:
        return aged
    names = {each.name for each in aged}
    rest = [each for each in there if counted(each) and each.name not in names and older(each, MIN_AGE)]
    rest.sort(key=lambda each: (_EXPENDABLE[each.phase], each.ended))
    return aged + rest[:surplus]


def idle_seconds(finished: Iterable[FinishedUpdate], retention: Retention, now: datetime) -> float:
    """Seconds until the first of these becomes due, where none is and no others come; at most RECHECK_SECONDS."""
    kept = list(finished)
    surplus = sum(each.partition is not None for each in kept) > retention.max_finished
    seconds = RECHECK_SECONDS
    for each in kept:
        age = MIN_AGE if surplus and each.partition is not None else each.kept_seconds(retention)
        seconds = min(seconds, age - (now - each.ended).total_seconds())
    return seconds


def at_a_time(count: int, seconds: float) -> int:
    """How many deletes have to run at a time so that `count` of so many seconds each end in time (Little's law)."""
    return max(1, min(CONCURRENCY, math.ceil(count * seconds / DELETING_SECONDS)))


class Collector:
    """Knows the finished updates of a shard, and deletes them round by round."""

    def __init__(self, context: ShardContext, refusals: RefusalWriter) -> None:
        """`refusals` answers the requests of the finished updates that are found."""
        self._context = context
        self._refusals = refusals
        self._finished: dict[str, FinishedUpdate] = {}
        self._listed = False
        #: When, by the monotonic clock.
        self._listed_at = 0.0
        #: How many lists were asked for, and how many of these requests the last list has answered.
        self._relists_wanted = self._relists_done = 0
        #: The time (monotonic) before which nothing is due, and the retention that it was computed for: five thousand
        #: finished updates of each of a hundred streams are not sorted every five seconds.
        self._idle_until: tuple[float, Retention] | None = None
        #: Finished updates by phase; None: to be counted again.
        self._counts: dict[Phase, int] | None = None
        #: Seconds that a delete of the last round took, on average.
        self._seconds = FIRST_SECONDS

    @property
    def counts(self) -> dict[Phase, int]:
        """Finished updates by phase; empty before they have been listed."""
        if not self._listed:
            return {}
        if self._counts is None:
            counts = Counter(each.phase for each in self._finished.values())
            self._counts = {phase: counts[phase] for phase in FINISHED}
        return self._counts

    def add(self, update: UserUpdate) -> None:
        if update.unreadable:
            return
        self._finished[update.name] = FinishedUpdate.of(update)
        self._refusals.check(update)
        self._changed()
        surplus = self._idle_until and len(self._finished) > self._idle_until[1].max_finished
        if surplus or update.spec.ttl_seconds_after_finished is not None:
            self._idle_until = None  # this one, or an older one in its place, may be due now

    def clear(self) -> None:
        self._finished, self._listed, self._idle_until = {}, False, None
        self._changed()

    def relist(self) -> None:
        """List again: what people have changed of finished updates may have been missed."""
        self._relists_wanted += 1

    def _changed(self) -> None:
        self._counts = None

    async def run(self) -> None:
        """Delete round after round. While a round's updates are deleted, those of the next are chosen."""
        batch: list[FinishedUpdate] = []
        while True:
            await self._context.lease.wait_held()
            pause = BUSY_PERIOD * random.uniform(0.8, 1.2) if batch else 0
            _, batch, _ = await asyncio.gather(self._delete_all(batch), self._choose(batch), asyncio.sleep(pause))
            if not batch:
                await asyncio.sleep(PERIOD * random.uniform(0.8, 1.2))

    async def _list(self) -> None:
        """Read the updates that earlier controllers have finished, and this one before it lost its Lease.

        An update that was known before and is not listed was deleted by somebody. One that ends meanwhile may be
        missing from the list, and stays.
        """
        stream, shard = self._context.stream, self._context.shard
        tenure, found = self._context.lease.tenure, {}
        before, began, wanted = dict(self._finished), time.monotonic(), self._relists_wanted
        for phase in FINISHED:
            selector = f"spec.stream={stream.name},status.phase={phase}"
            pages = self._context.cluster.pages(
                UPDATES, stream.namespace, field_selector=selector, label_selector=shard.selector, page=200
            )
            async for listing in pages:
                for update in map(parse, filter(shard.collects, listing.items)):
                    if not update.unreadable:  # such an update stays: this version cannot tell for how long
                        found[update.name] = FinishedUpdate.of(update)
                        self._refusals.check(update)
        if self._context.lease.tenure == tenure:
            new = {name: each for name, each in self._finished.items() if before.get(name) is not each}
            self._finished = found | new
            self._listed, self._listed_at, self._idle_until, self._relists_done = True, began, None, wanted
            self._changed()

    def _stale(self) -> bool:
        """Whether updates made by hand may have been deleted or changed since they were listed."""
        if time.monotonic() - self._listed_at < LIST_SECONDS:
            return False
        return any(each.partition is None for each in self._finished.values())

    async def _choose(self, going: list[FinishedUpdate]) -> list[FinishedUpdate]:
        """Updates that are due, but for those that are `going`, at most a batch; none while the API server is away."""
        try:
            if not self._listed or self._relists_wanted > self._relists_done or self._stale():
                await self._list()
            return await self._due({each.name for each in going})
        except errors.ApiError as error:
            retrying(logger, "Finished updates not collected", error)
            return []

    async def _due(self, going: set[str]) -> list[FinishedUpdate]:
        retention, now = self._context.retention, self._context.now()
        if self._idle_until and time.monotonic() < self._idle_until[0] and retention == self._idle_until[1]:
            return []
        finished = {name: each for name, each in self._finished.items() if name not in going}
        if not due(finished, retention, now):
            self._idle_until = (
                time.monotonic() + idle_seconds(self._finished.values(), retention, now),
                retention,
            )
            return []
        self._idle_until = None
        stream = await self._context.cluster.get(STREAMS, self._context.stream.namespace, self._context.stream.name)
        status = stream.get("status") or {}
        gone, not_redelivered = gone_ids(status), _not_redelivered(status)
        may_go = {each.name for each in finished.values() if each.topic_id in gone or not_redelivered(each)}
        may_go -= await self._in_backlogs([finished[name] for name in may_go])
        return due(finished, retention, now, lambda each: each.name in may_go, gone)[:BATCH]

    async def _in_backlogs(self, updates: list[FinishedUpdate]) -> set[str]:
        """Names of the updates whose record waits in a UserBacklog: the bridge will create these updates again.

        The backlogs are read after `position`, which moves after they are written. All updates are looked at, not a
        batch: a batch that has only such updates would keep the others waiting.
        """
        asked: defaultdict[str, dict[Place, str]] = defaultdict(dict)
        for each in updates:
            if each.partition is not None:
                asked[each.user][each.partition, each.offset] = each.name
        if not asked:
            return set()
        stream = self._context.stream
        selector = f"spec.stream={stream.name}"
        listed: set[str] = set()
        pages = self._context.cluster.pages(BACKLOGS, stream.namespace, field_selector=selector, page=BACKLOGS_AT_ONCE)
        async for listing in pages:
            for body in listing.items:
                if places := asked.get(body["spec"]["user"]):
                    listed |= {places[place] for place in _listed(body, places.keys())}
                    await asyncio.sleep(0)  # the Lease and the calls get their turn between any two
        return listed

    async def _delete_all(self, batch: list[FinishedUpdate]) -> None:
        """Delete them. One that cannot be deleted now is due again in the next round."""
        slots, until = asyncio.Semaphore(at_a_time(len(batch), self._seconds)), time.monotonic() + MAX_DELETING_SECONDS
        took: list[float] = []

        async def delete(each: FinishedUpdate) -> None:
            async with slots:
                await self._context.lease.wait_held()
                if (began := time.monotonic()) < until:
                    try:
                        await self._delete(each)
                    finally:
                        took.append(time.monotonic() - began)

        done = await asyncio.gather(*map(delete, batch), return_exceptions=True)
        if took:
            self._seconds = sum(took) / len(took)
        if failed := next(filter(None, done), None):
            if not isinstance(failed, errors.ApiError):
                raise failed
            retrying(logger, "Finished updates not collected", failed)

    async def _delete(self, each: FinishedUpdate) -> None:
        failpoints.evaluate("controller.collecting")
        cluster, namespace = self._context.cluster, self._context.stream.namespace
        try:
            await cluster.delete(UPDATES, namespace, each.name, each.uid, each.version)
        except errors.NotFound:
            pass
        except errors.Conflict:
            return await self._look(each)
        else:
            metrics.COLLECTED.labels(*self._context.stream_labels).inc()
        failpoints.evaluate("controller.collected")
        if self._finished.get(each.name) is each:  # another update of that name may have finished since
            del self._finished[each.name]
            self._changed()

    async def _look(self, each: FinishedUpdate) -> None:
        """Read it again: somebody has changed it, or another update has its name now."""
        try:
            update = parse(await self._context.cluster.get(UPDATES, self._context.stream.namespace, each.name))
        except errors.NotFound:
            update = None
        if self._finished.get(each.name) is not each:
            return
        if update and update.status.finished:
            self.add(update)
        else:
            del self._finished[each.name]
            self._changed()


def _listed(backlog: Body, asked: Set[Place]) -> set[Place]:
    """The places among `asked` that this backlog lists, or may list: a damaged entry counts as if it listed all."""
    found: set[Place] = set()
    for entry in backlog["spec"].get("partitions", ()):
        partition = entry["topicId"], entry["partition"]
        if offsets := {offset for where, offset in asked if where == partition}:
            try:
                offsets = offsets_in_entry(entry, offsets)
            except ValueError:
                pass  # the bridge repairs it, or reports BacklogUnreadable
            found |= {(partition, offset) for offset in offsets}
    return found


def _not_redelivered(status: Body) -> Callable[[FinishedUpdate], bool]:
    """A function that says if Kafka cannot deliver an update's record again: it is below `position` and last commit."""
    below = {
        (entry["topicId"], entry["partition"]): min(entry.get("position", 0), entry.get("committed", 0))
        for entry in status.get("partitions", ())
    }
    return lambda each: each.partition is None or each.offset < below.get(each.partition, 0)


def gone_ids(status: Body) -> Set[str]:
    """Ids of topics that the bridge knows to be gone: all entries of an id say so."""
    entries = status.get("partitions", ())
    return {entry["topicId"] for entry in entries} - {e["topicId"] for e in entries if not e.get("gone")}
