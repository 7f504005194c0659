"""From a good record to its UserUpdate: lane, slot, link, create, acknowledgement.

Per user one create at a time, in order; users in parallel. A record is done for its partition's tracker when its
UserUpdate is acknowledged. One whose create is refused is the first of its lane again, gives slot and place to others,
and wants them anew when its time has come.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from controller import failpoints
from controller.api import names
from controller.api.rejected_event import RejectionReason
from controller.bridge import metrics
from controller.bridge.context import ConsumerContext
from controller.bridge.creator import Answer, NameTaken, Over, Unfinished, Unusable, create
from controller.bridge.links import Links
from controller.bridge.partitions import Lost, Partition
from controller.bridge.pending import Lanes, Waiting
from controller.bridge.working_set import Slots
from controller.bridge.write_limiter import Brake
from controller.core.records import Rejection, UpdateEvent, read_record, user_update_manifest
from controller.errors import ApiError

logger = logging.getLogger(__name__)

#: Creates of a stream under way at a time.
PARALLEL = 32
#: With several replicas each keeps this part of maxObjects under way or not yet seen by the others.
SHARE_UNSETTLED = 0.05


class Dispatch:
    """The lanes of one stream. `settled` gets each record that is acknowledged, `reject` what never will be."""

    def __init__(
        self,
        context: ConsumerContext,
        settled: Callable[[Waiting], None],
        reject: Callable[[Waiting, Rejection], None],
    ) -> None:
        self._context = context
        self.lanes = Lanes()
        self.slots = Slots(context.stream.limits)
        self.links = Links()
        self.brake = Brake(PARALLEL)
        #: Nothing is created while this is set.
        self.halted = False
        self._closed = False
        self._settled = settled
        self._reject = reject
        self._creating: dict[str, Waiting] = {}
        #: Lanes whose first record was refused, until they want a slot again.
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_grant = time.monotonic()
        self._granted: dict[str, float] = {}

    def offer(self, waiting: Waiting) -> None:
        """A good record waits for its slot from now on."""
        lane = names.user_label(waiting.user)
        self.lanes.add(lane, waiting)
        if lane not in self._creating and lane not in self._later:
            self.slots.want(lane)

    def idle(self, now: float) -> list[tuple[float, str]]:
        """Lanes without a create under way: for how many seconds nothing of theirs has moved, and which they are."""
        return [
            (now - max(queue[0].since, self._granted.get(lane, 0.0)), lane)
            for lane, queue in self.lanes
            if lane not in self._creating
        ]

    def take_back(self, lane: str, unwanted: Callable[[Waiting], bool]) -> list[Waiting]:
        """Records that are no longer to wait here, in order."""
        removed = self.lanes.remove(lane, unwanted)
        if removed and lane in self._later:  # what was refused is one of them
            self._want(lane)
            self.brake.forget(lane)
        if not self.lanes.waits(lane):
            self.slots.unwant(lane)
            self._granted.pop(lane, None)
        return removed

    def forget(self, partitions: Iterable[Partition]) -> None:
        """These are another replica's now."""
        gone = set(partitions)
        for lane, _ in self.lanes:
            self.take_back(lane, lambda waiting: waiting.partition in gone)

    def pump(self) -> None:
        """Start as many creates as may be under way."""
        while not (self.halted or self._closed) and len(self._creating) < PARALLEL and not self._must_settle():
            lane = self.slots.grant()
            if lane is None:
                return
            self._last_grant = time.monotonic()
            if not self.brake.tries(lane):
                self._granted[lane] = self._last_grant
            waiting = self.lanes.take(lane)
            self._creating[lane] = waiting
            waiting.partition.in_flight += 1
            task = asyncio.create_task(self._create(lane, waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def starving(self, seconds: float) -> bool:
        """Users wait for a first slot, and for so long there was none for anybody."""
        return time.monotonic() - self._last_grant >= seconds and self.slots.starving

    def close(self) -> None:
        """Begin no more creates; those under way go on."""
        self._closed = True

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for timer in self._later.values():
            timer.cancel()

    def _must_settle(self) -> bool:
        allowed = max(1, int(SHARE_UNSETTLED * self._context.stream.limits.max_objects))
        return not self._context.alone and self.slots.unsettled >= allowed

    async def _create(self, lane: str, waiting: Waiting) -> None:
        begun, again = time.monotonic(), None
        try:
            async with self.brake.turn():
                await self._context.partitions.hold(waiting.partition)
                answer = await self._attempt(lane, waiting)
            self._count(answer.outcome)
            metrics.CREATE_SECONDS.labels(*self._context.stream_labels).observe(time.monotonic() - begun)
        except (Lost, asyncio.CancelledError):
            self.slots.release(lane)
            self.brake.forget(lane)
        except ApiError as error:
            self.slots.release(lane)
            self._count("refused")
            logger.debug("UserUpdate not created: %s", error)
            record = waiting.record
            again = self.brake.failed(lane, error, f"partition {record.partition}, offset {record.offset}")
        except Exception as error:
            # The user's next record must not come before this one: nothing more is created.
            self.close()
            self.slots.release(lane)
            self._context.fail(error)
        finally:
            self._end(lane, waiting, again)

    async def _attempt(self, lane: str, waiting: Waiting) -> Answer | Unusable:
        """Raises ApiError where it is refused."""
        event = read_record(waiting.record, put_aside=waiting.from_backlog)
        if isinstance(event, Rejection):
            self._refuse(lane, waiting, event)
            return Unusable()
        manifest = user_update_manifest(self._context.stream, event, self.links.after(_key(event), event.source.offset))
        failpoints.evaluate("bridge.create")
        answer = await create(self._context.cluster, manifest)
        failpoints.evaluate("bridge.created")
        self._account(lane, waiting, event, manifest["metadata"]["name"], answer)
        return answer

    def _account(self, lane: str, waiting: Waiting, event: UpdateEvent, name: str, answer: Answer) -> None:
        match answer:
            case Unfinished(version, new):
                if self.slots.created(lane, name, version):
                    self.links.add(_key(event), event.source.offset, name, version)
                self._settled(waiting)
                if new:
                    for other in self.brake.worked(lane):
                        self._want(str(other))
            case Over():
                self.slots.release(lane)
                self._settled(waiting)
            case NameTaken():
                message = f"another UserUpdate has the name {name}: see its spec.source"
                self._refuse(lane, waiting, Rejection(RejectionReason.NAME_CONFLICT, message))
        self.brake.forget(lane)

    def _refuse(self, lane: str, waiting: Waiting, why: Rejection) -> None:
        self.slots.release(lane)
        self._reject(waiting, why)

    def _end(self, lane: str, waiting: Waiting, again: float | None) -> None:
        """`again`: seconds until it is tried anew; None where that is over."""
        del self._creating[lane]
        self._context.partitions.create_ended(waiting.partition)
        if again is not None and not waiting.partition.revoked:
            self.lanes.put_back(lane, waiting)
            self._later[lane] = asyncio.get_running_loop().call_later(again, self._retry, lane)
        else:
            self.brake.forget(lane)
            self.lanes.settle(waiting)
            if self.lanes.waits(lane):
                self.slots.want(lane)
            else:
                self._granted.pop(lane, None)
        self.pump()

    def _retry(self, lane: str) -> None:
        self._want(lane)
        self.pump()

    def _want(self, lane: str) -> None:
        """Its time has come, or it need not wait for it."""
        if timer := self._later.pop(lane, None):
            timer.cancel()
            self.slots.want(lane)

    def _count(self, outcome: str) -> None:
        metrics.CREATES.labels(*self._context.stream_labels, outcome).inc()


def _key(event: UpdateEvent) -> tuple[str, int, str]:
    return event.source.topic_id, event.source.partition, event.user
