"""Deletes finished updates when their time has come, and no earlier than their record can be delivered again.

A finished update is what tells a repeated record from a new one: it may go only when its offset is below `position`
and below what Kafka has acknowledged as committed, and in no backlog, and a minute after its end, which a create that
was cut off by a time-out or a frozen bridge may still meet. Those of a topic that is gone go by age alone: no record of
it can come again. That it is gone is what the stream's status says of its id; one that the status does not list may be
one that the bridge is about to list.

Hand-made ones stay, but where they say for how long (`spec.ttlSecondsAfterFinished`): whatever applies manifests again
and again would make a collected one anew, and it would run again.
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
from controller.reconciler.context import StreamContext
from controller.reconciler.parsing import parse

logger = logging.getLogger(__name__)

#: Topic id and partition, and an offset in it.
Place: TypeAlias = tuple[tuple[str, int], int]

#: Seconds between rounds (with jitter) while nothing is due, and from one to the next while something is.
PERIOD = 5.0
BUSY_PERIOD = 2.5
#: Most deletes in a round.
BATCH = 500
#: Seconds that they are to take, and how many there are at a time at most. As few as that needs: a delete takes 5 ms of
#: an idle API server and most of a second in a flood, which must not outrun it.
DELETING_SECONDS = 2.0
CONCURRENCY = 64
#: After so many, where deletes have become slow, the rest is left to the next round, which has more at a time.
MAX_DELETING_SECONDS = 5.0
#: What a delete is taken to need before one was made.
FIRST_SECONDS = 0.05
#: UserBacklogs in a page of a list, parsed at once: each may be of 200 KB, most are of a hundred bytes.
BACKLOGS_AT_ONCE = 50
#: What is due is computed anew at least so often: clocks may be set, and what a person finished by hand may be old.
QUIET_SECONDS = 20.0
#: No update of a record goes earlier after its end, in seconds.
MIN_AGE = 60.0
#: Hand-made ones may stay for good, and nothing tells of a finished one that a person deletes or gives a time to live.
#: So where there are any, all are listed anew so often.
LIST_SECONDS = 300.0

#: What goes first where more than `maxFinished` are kept.
_EXPENDABLE = {Phase.SUCCEEDED: 0, Phase.SKIPPED: 1, Phase.CANCELLED: 1, Phase.FAILED: 2}


@dataclass(frozen=True, slots=True)
class Finished:
    """What collection needs to know of a finished update."""

    name: str
    uid: str
    version: int
    user: str
    phase: Phase
    ended: datetime
    #: (topic id, partition) and offset; None for hand-made ones.
    partition: tuple[str, int] | None
    offset: int
    #: Of a hand-made one, the seconds for which it stays; None: until a person deletes it.
    ttl: int | None = None

    @classmethod
    def of(cls, update: UserUpdate) -> Finished:
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
        """For how long it stays after its end, unless too many are kept; infinite for good."""
        if self.partition is None:
            return math.inf if self.ttl is None else self.ttl
        succeeded = self.phase is Phase.SUCCEEDED
        return max(MIN_AGE, retention.succeeded_seconds if succeeded else retention.failed_seconds)


def due(
    finished: Mapping[str, Finished],
    retention: Retention,
    now: datetime,
    settled: Callable[[Finished], bool] = lambda each: True,
    gone: Set[str] = frozenset(),
) -> list[Finished]:
    """Those whose time has come, by age or because too many are kept, the first to go first.

    Only what is `settled` goes; what is not keeps nothing else from going in its place. What is of a topic id that is
    `gone` is not one of too many.
    """
    there = [each for each in finished.values() if settled(each)]

    def older(each: Finished, seconds: float) -> bool:
        return (now - each.ended).total_seconds() >= seconds

    aged = [each for each in there if older(each, each.kept_seconds(retention))]

    def counted(each: Finished) -> bool:
        return each.partition is not None and each.topic_id not in gone

    surplus = sum(map(counted, finished.values())) - sum(map(counted, aged)) - retention.max_finished
    if surplus <= 0:
        return aged
    names = {each.name for each in aged}
    rest = [each for each in there if counted(each) and each.name not in names and older(each, MIN_AGE)]
    rest.sort(key=lambda each: (_EXPENDABLE[each.phase], each.ended))
    return aged + rest[:surplus]


def quiet_seconds(finished: Iterable[Finished], retention: Retention, now: datetime) -> float:
    """For how long none of these becomes due, where none is now, and no others come; at most QUIET_SECONDS."""
    kept = list(finished)
    surplus = sum(each.partition is not None for each in kept) > retention.max_finished
    seconds = QUIET_SECONDS
    for each in kept:
        age = MIN_AGE if surplus and each.partition is not None else each.kept_seconds(retention)
        seconds = min(seconds, age - (now - each.ended).total_seconds())
    return seconds


def at_a_time(count: int, seconds: float) -> int:
    """How many deletes of so many seconds each are to be under way so that so many end in time (Little's law)."""
    return max(1, min(CONCURRENCY, math.ceil(count * seconds / DELETING_SECONDS)))


class Collection:
    """The finished updates of a stream, and the round that deletes them."""

    def __init__(self, context: StreamContext, notice: Callable[[UserUpdate], None]) -> None:
        """`notice` gets each finished update that is met."""
        self._context = context
        self._notice = notice
        self._finished: dict[str, Finished] = {}
        self._listed = False
        #: When, by the monotonic clock.
        self._listed_at = 0.0
        #: How often some may have been changed without being met, and how often of these all were listed since.
        self._doubts = self._settled = 0
        #: Nothing is due before that (monotonic), with the retention that it was computed for: five thousand finished
        #: updates of each of a hundred streams are not sorted every five seconds.
        self._quiet: tuple[float, Retention] | None = None
        #: By phase; None: to be counted anew.
        self._counts: dict[Phase, int] | None = None
        #: What a delete of the last round took, on average.
        self._seconds = FIRST_SECONDS

    @property
    def counts(self) -> dict[Phase, int]:
        """Finished updates by phase; none before they have been listed. Asked for every two seconds, changed seldom."""
        if not self._listed:
            return {}
        if self._counts is None:
            counts = Counter(each.phase for each in self._finished.values())
            self._counts = {phase: counts[phase] for phase in FINISHED}
        return self._counts

    def add(self, update: UserUpdate) -> None:
        if update.unreadable:
            return
        self._finished[update.name] = Finished.of(update)
        self._notice(update)
        self._changed()
        surplus = self._quiet and len(self._finished) > self._quiet[1].max_finished
        if surplus or update.spec.ttl_seconds_after_finished is not None:
            self._quiet = None  # an older one, or this one, may be due now; others are not before a minute has passed

    def clear(self) -> None:
        self._finished, self._listed, self._quiet = {}, False, None
        self._changed()

    def doubt(self) -> None:
        """What people have changed of them may have been missed: list."""
        self._doubts += 1

    def _changed(self) -> None:
        self._counts = None

    async def run(self) -> None:
        """Round after round. The next ones are chosen while those before are deleted: in a flood that takes seconds."""
        batch: list[Finished] = []
        while True:
            await self._context.lease.wait_held()
            pause = BUSY_PERIOD * random.uniform(0.8, 1.2) if batch else 0
            _, batch, _ = await asyncio.gather(self._delete_all(batch), self._choose(batch), asyncio.sleep(pause))
            if not batch:
                await asyncio.sleep(PERIOD * random.uniform(0.8, 1.2))

    async def _list(self) -> None:
        """What earlier controllers have finished, and this one before it lost its Lease.

        What was known before and is not there any more was deleted by somebody; what ends meanwhile may not be listed.
        """
        stream, shard = self._context.stream, self._context.shard
        tenure, found = self._context.lease.tenure, {}
        before, began, doubts = dict(self._finished), time.monotonic(), self._doubts
        for phase in FINISHED:
            selector = f"spec.stream={stream.name},status.phase={phase}"
            pages = self._context.cluster.pages(
                UPDATES, stream.namespace, field_selector=selector, label_selector=shard.selector, page=200
            )
            async for listing in pages:
                for update in map(parse, filter(shard.collects, listing.items)):
                    if not update.unreadable:  # it stays: nobody here can tell how long it is to be kept
                        found[update.name] = Finished.of(update)
                        self._notice(update)
        if self._context.lease.tenure == tenure:
            new = {name: each for name, each in self._finished.items() if before.get(name) is not each}
            self._finished = found | new
            self._listed, self._listed_at, self._quiet, self._settled = True, began, None, doubts
            self._changed()

    def _stale(self) -> bool:
        """Hand-made ones may have been deleted or changed since they were listed."""
        if time.monotonic() - self._listed_at < LIST_SECONDS:
            return False
        return any(each.partition is None for each in self._finished.values())

    async def _choose(self, going: list[Finished]) -> list[Finished]:
        """What is due besides those that are on their way, at most a batch; nothing where the API server is away."""
        try:
            if not self._listed or self._doubts > self._settled or self._stale():
                await self._list()
            return await self._due({each.name for each in going})
        except errors.ApiError as error:
            retrying(logger, "Finished updates not collected", error)
            return []

    async def _due(self, going: set[str]) -> list[Finished]:
        retention, now = self._context.retention, self._context.now()
        if self._quiet and time.monotonic() < self._quiet[0] and retention == self._quiet[1]:
            return []
        finished = {name: each for name, each in self._finished.items() if name not in going}
        if not due(finished, retention, now):
            self._quiet = time.monotonic() + quiet_seconds(self._finished.values(), retention, now), retention
            return []
        self._quiet = None
        stream = await self._context.cluster.get(STREAMS, self._context.stream.namespace, self._context.stream.name)
        status = stream.get("status") or {}
        gone, settled = gone_ids(status), _settled(status)
        may_go = {each.name for each in finished.values() if each.topic_id in gone or settled(each)}
        may_go -= await self._in_backlogs([finished[name] for name in may_go])
        return due(finished, retention, now, lambda each: each.name in may_go, gone)[:BATCH]

    async def _in_backlogs(self, updates: list[Finished]) -> set[str]:
        """Those that a UserBacklog tells to make again; read after `position`, which moves behind the backlogs.

        Of all of them, not of a batch: a batch of nothing else would keep the rest waiting.
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
                    await asyncio.sleep(0)  # the Lease and the calls of others have their turn between any two
        return listed

    async def _delete_all(self, batch: list[Finished]) -> None:
        """What cannot be deleted now is due again in the next round."""
        slots, until = asyncio.Semaphore(at_a_time(len(batch), self._seconds)), time.monotonic() + MAX_DELETING_SECONDS
        took: list[float] = []

        async def delete(each: Finished) -> None:
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

    async def _delete(self, each: Finished) -> None:
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
        if self._finished.get(each.name) is each:  # not where another one of its name has finished since
            del self._finished[each.name]
            self._changed()

    async def _look(self, each: Finished) -> None:
        """Somebody has changed it since, or it is another one of its name: what it is now is judged anew."""
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
    """Those of these places that wait in it, or may: a damaged entry tells of none."""
    found: set[Place] = set()
    for entry in backlog["spec"].get("partitions", ()):
        partition = entry["topicId"], entry["partition"]
        if offsets := {offset for where, offset in asked if where == partition}:
            try:
                offsets = offsets_in_entry(entry, offsets)
            except ValueError:
                pass  # the bridge's to mend, or to tell: BacklogUnreadable
            found |= {(partition, offset) for offset in offsets}
    return found


def _settled(status: Body) -> Callable[[Finished], bool]:
    """Whether Kafka cannot deliver a record again: it is below `position` and below the last commit."""
    below = {
        (entry["topicId"], entry["partition"]): min(entry.get("position", 0), entry.get("committed", 0))
        for entry in status.get("partitions", ())
    }
    return lambda each: each.partition is None or each.offset < below.get(each.partition, 0)


def gone_ids(status: Body) -> Set[str]:
    """Ids of topics that the bridge knows to be gone: all entries of an id say so."""
    entries = status.get("partitions", ())
    return {entry["topicId"] for entry in entries} - {e["topicId"] for e in entries if not e.get("gone")}
