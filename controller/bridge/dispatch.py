"""Creates the UserUpdates of pending records: each record gets a slot in the working set, and then its create.

Each user has one create at a time, in order; users are served in parallel. A record is done when its UserUpdate is
acknowledged. A record whose create is refused becomes the first of its user again and releases its slot. It gets
another slot when it is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from controller import failpoints
from controller.api.rejected_event import RejectionReason
from controller.bridge import metrics
from controller.bridge.context import ConsumerContext
from controller.bridge.creator import AlreadyFinished, Answer, NameTaken, Present, create
from controller.bridge.partitions import Lost, Partition
from controller.bridge.pending import PendingRecord, PendingRecords
from controller.bridge.rejected_events import RejectedEvents, RejectedRecord
from controller.bridge.working_set import WorkingSet
from controller.core.records import Rejection, user_update_manifest
from controller.errors import ApiError

logger = logging.getLogger(__name__)

#: Creates of a stream under way at a time.
PARALLEL = 32
#: With several replicas each keeps at most this part of maxObjects in creates that the others cannot have seen yet.
SHARE_UNSEEN = 0.05


class Dispatcher:
    """Creates the UserUpdates of one stream."""

    def __init__(self, context: ConsumerContext, rejected_events: RejectedEvents) -> None:
        self._context = context
        self._rejected_events = rejected_events
        self.pending = PendingRecords()
        self.working_set = WorkingSet(context.stream.limits)
        self.limiter = context.write_limiter(PARALLEL)
        #: No create begins while this is set.
        self.halted = False
        self._closed = False
        self._creating: dict[str, PendingRecord] = {}
        #: Users whose first record was refused, each with the timer that tries it again.
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: When a slot was granted last, to anybody and to each user with pending records, by the monotonic clock.
        self._last_grant = time.monotonic()
        self._granted: dict[str, float] = {}

    def offer(self, record: PendingRecord) -> None:
        """A good record waits for its slot from now on; `pump` starts what may start."""
        user = record.label
        self.pending.append(record)
        if user not in self._creating and user not in self._later:
            self.working_set.want(user)

    def idle(self, now: float) -> list[tuple[float, str]]:
        """The users without a create under way, each after the seconds for which none of their records has moved."""
        return [
            (now - max(queue[0].since, self._granted.get(user, 0.0)), user)
            for user, queue in self.pending
            if user not in self._creating
        ]

    def take_back(self, user: str) -> list[PendingRecord]:
        """Take out what was not read from a backlog, in order: it is to go into one. The caller frees the memory."""
        records = [record for record in self.pending.get(user) or () if not record.origin.from_backlog]
        self._remove(user, records)
        return records

    def forget(self, partitions: Iterable[Partition]) -> None:
        """These partitions are another replica's now."""
        gone = set(partitions)
        for user, queue in self.pending:
            records = [record for record in queue if record.partition in gone]
            self._remove(user, records)
            for record in records:
                record.free()

    def _remove(self, user: str, records: list[PendingRecord]) -> None:
        self.pending.remove(user, set(records))
        if records and user in self._later:  # the one whose create was refused is among them
            self._want(user)
            self.limiter.forget(user)
        if user not in self.pending:
            self.working_set.unwant(user)
            self._granted.pop(user, None)

    def pump(self) -> None:
        """Start as many creates as may be under way."""
        while not (self.halted or self._closed) and len(self._creating) < PARALLEL and not self._must_be_seen():
            user = self.working_set.grant()
            if user is None:
                return
            self._last_grant = time.monotonic()
            if not self.limiter.tries(user):
                self._granted[user] = self._last_grant
            record = self.pending.pop(user)
            self._creating[user] = record
            record.partition.in_flight += 1
            task = asyncio.create_task(self._create(user, record))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def starving(self, seconds: float) -> bool:
        """Whether users wait for a first slot, and nobody was given one for `seconds`."""
        return time.monotonic() - self._last_grant >= seconds and self.working_set.starving

    def close(self) -> None:
        """Begin no more creates. Those under way go on."""
        self._closed = True

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for timer in self._later.values():
            timer.cancel()

    def _must_be_seen(self) -> bool:
        """Other replicas must see what this one has created before it creates more."""
        allowed = max(1, int(SHARE_UNSEEN * self._context.stream.limits.max_objects))
        return not self._context.alone and self.working_set.unseen >= allowed

    async def _create(self, user: str, record: PendingRecord) -> None:
        begun, again = time.monotonic(), None
        try:
            async with self.limiter.turn():
                await self._context.partitions.wait_held(record.partition)
                answer = await self._attempt(user, record)
            self._count(answer.outcome)
            metrics.CREATE_SECONDS.labels(*self._context.stream_labels).observe(time.monotonic() - begun)
        except (Lost, asyncio.CancelledError):
            self.working_set.release(user)
            self.limiter.forget(user)
        except ApiError as error:
            self.working_set.release(user)
            self._count("refused")
            logger.debug("UserUpdate not created: %s", error)
            again = self.limiter.failed(user, error, f"partition {record.partition.number}, offset {record.offset}")
        except Exception as error:
            # The user's next record must not come before this one: nothing more is created.
            self.close()
            self.working_set.release(user)
            self._context.fail(error)
        finally:
            self._end(user, record, again)

    async def _attempt(self, user: str, record: PendingRecord) -> Answer:
        """Raises ApiError where the create is refused."""
        manifest = user_update_manifest(self._context.stream, record.event, self.working_set.after(record.event))
        failpoints.evaluate("bridge.create")
        answer = await create(self._context.cluster, manifest)
        failpoints.evaluate("bridge.created")
        self._account(user, record, manifest["metadata"]["name"], answer)
        return answer

    def _account(self, user: str, record: PendingRecord, name: str, answer: Answer) -> None:
        match answer:
            case Present(version, new):
                self.working_set.created(user, record.event, name, version)
                record.done()
                if new:
                    for other in self.limiter.succeeded(user):
                        self._want(str(other))
            case AlreadyFinished():
                self.working_set.release(user)
                record.done()
            case NameTaken():
                self.working_set.release(user)
                message = f"another UserUpdate has the name {name}: see its spec.source"
                rejection = Rejection(RejectionReason.NAME_CONFLICT, message)
                stream = self._context.stream
                self._rejected_events.add(RejectedRecord.of(stream, record.record, rejection, record.origin))
        self.limiter.forget(user)

    def _end(self, user: str, record: PendingRecord, again: float | None) -> None:
        """A create has ended. `again`: seconds until it is to be tried again; None: it is not."""
        del self._creating[user]
        self._context.partitions.create_ended(record.partition)
        if again is not None and not record.partition.revoked:
            self.pending.put_back(record)
            self._later[user] = asyncio.get_running_loop().call_later(again, self._retry, user)
        else:
            self.limiter.forget(user)
            record.free()
            if user in self.pending:
                self.working_set.want(user)
            else:
                self._granted.pop(user, None)
        self.pump()

    def _retry(self, user: str) -> None:
        self._want(user)
        self.pump()

    def _want(self, user: str) -> None:
        """The user's refused record is to be tried again now."""
        if timer := self._later.pop(user, None):
            timer.cancel()
            self.working_set.want(user)

    def _count(self, outcome: str) -> None:
        metrics.CREATES.labels(*self._context.stream_labels, outcome).inc()
