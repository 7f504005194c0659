"""How much is read ahead: partitions pause and go on, records move into backlogs; and the condition that says so."""

from __future__ import annotations

import time

from controller.bridge.backlogs import Backlogs
from controller.bridge.context import ConsumerContext
from controller.bridge.dispatch import Dispatcher
from controller.bridge.membership import JOINING, GroupMembership
from controller.bridge.rejected_events import RejectedEvents
from controller.bridge.stream_report import Consuming
from controller.kafka import GroupMember

#: Memory for records that wait: with librdkafka's queues, what is on its way and what is read again, under 32 MiB.
HIGH_WATER = 18 << 20
LOW_WATER = 12 << 20
#: An offset that is in no UserBacklog yet counts as a small record does: where backlogs cannot be written, moving
#: records there must not make room for more. Some 20,000 of them fill the memory of a stream.
UNWRITTEN_COST = 900
#: With no slot for anybody for so long the partitions pause, whatever memory there is.
STARVING_SECONDS = 1.0
#: Seconds without an accepted commit until the condition says so: before creates stop for lack of one.
UNCOMMITTED_SECONDS = 5.0
#: UserUpdates made above the positions of a stream's partitions, of which none can be collected: where there are more,
#: reading pauses until there are less. Users who are stuck hold a position up for seconds, not for so many.
MADE_HIGH = 20_000
MADE_LOW = 15_000
#: Seconds of refusals until the condition names a write, and for which it goes on naming it: the write begins anew when
#: its user is moved into a backlog.
REFUSED_SECONDS = 2.0
REPORTED_SECONDS = 4.0
MAX_MESSAGE = 1000


class Pausing:
    def __init__(
        self,
        context: ConsumerContext,
        dispatcher: Dispatcher,
        rejected_events: RejectedEvents,
        backlogs: Backlogs,
        member: GroupMember,
        membership: GroupMembership,
    ) -> None:
        self._context = context
        self._dispatcher = dispatcher
        self._limiters = (dispatcher.limiter, rejected_events.limiter, backlogs.limiter)
        self._backlogs = backlogs
        self._partitions = context.partitions
        self._member = member
        self._membership = membership
        self.paused = False
        #: Memory of offsets that are not written yet, as last looked at.
        self._unwritten = 0
        #: What the API server refuses, and until when the condition says so.
        self._reported = ""
        self._reported_until = 0.0
        self._looked = time.monotonic()

    @property
    def memory(self) -> int:
        return self._context.read_ahead.total

    def look(self) -> None:
        """Time has passed: that nothing happens is no event."""
        now = time.monotonic()
        self._unwritten = UNWRITTEN_COST * self._backlogs.unwritten
        if words := self._refused(REFUSED_SECONDS):
            self._reported, self._reported_until = words, now + REPORTED_SECONDS
        if self._creating:
            if self.memory > HIGH_WATER * self._context.memory_share:
                self._backlogs.make_room(self.memory - int(LOW_WATER * self._context.memory_share), now)
            self._backlogs.release_positions(now)
        else:
            self._backlogs.ignore(now - self._looked)
        self._looked = now
        self.steer()

    def resume(self) -> None:
        """A place in the working set may have become free."""
        if self.paused:
            self.steer()

    def steer(self) -> None:
        """Pause or resume reading, with hysteresis."""
        self._dispatcher.halted = self._suspended
        self._context.position_held = self._made_above() > (MADE_LOW if self._context.position_held else MADE_HIGH)
        limit = (LOW_WATER if self.paused else HIGH_WATER) * self._context.memory_share
        waits = self._starving or self._backlogs.full or self._context.position_held
        paused = self._suspended or waits or self.memory + self._unwritten > limit
        if paused != self.paused:
            self.paused = paused
            (self._member.pause if paused else self._member.resume)()

    def condition(self) -> Consuming | None:
        """None where this replica has no partitions and no trouble: then it is for another one to tell."""
        if error := self._context.topic_error or self._context.start_error:
            return self._no(error.reason, str(error))
        alone = not len(self._partitions)
        if error := self._membership.error(without_partitions=alone):
            return self._no(error.reason, str(error))
        if self._uncommitted:
            said = self._partitions.commit_refused or "the group's coordinator answers none"
            return self._no("CommitsRefused", f"Kafka accepts no commit, so nothing is created: {said}"[:MAX_MESSAGE])
        if self._suspended:
            return self._no("Suspended", "spec.suspend.ingest is set")
        if error := next(iter(self._context.partition_errors.values()), None):
            return self._no(error.reason, str(error))
        if alone:
            waits = self._membership.waits[:MAX_MESSAGE]
            return Consuming(None, JOINING, waits, self._context.stream.generation) if waits else None
        if self._backlogs.full:
            return self._no("BacklogFull", "a user has more records waiting than a UserBacklog holds")
        if self._starving:
            taken = self._dispatcher.working_set.taken
            return self._no("MaxObjectsReached", f"{taken} updates are unfinished: limits.maxObjects allows no more")
        reported = self._reported if time.monotonic() < self._reported_until else ""
        if self._context.position_held:
            return self._no("PositionHeld", self._held_up(reported or self._refused(0)))
        if reported:
            return self._no("CreatesRefused", reported)
        if self.paused:
            return self._no("BacklogFull", "more records wait than memory and backlogs may hold")
        return Consuming(True, "Consuming", "records are read", self._context.stream.generation)

    @property
    def _suspended(self) -> bool:
        return self._context.stream.suspend.ingest

    @property
    def _creating(self) -> bool:
        """Nothing but slots keeps records waiting: then a user who waits is in the way, else it is an outage.

        RejectedEvents that are refused leave room for backlogs, as no user waits for them. Where it is backlogs that
        cannot be written, their writer says how many more may be begun.
        """
        trouble = (
            self._suspended
            or self._context.topic_error
            or self._context.start_error
            or self._membership.error(without_partitions=False)
        )
        return not (trouble or self._dispatcher.limiter.failing_for() or self._uncommitted)

    @property
    def _uncommitted(self) -> bool:
        """The assignment is about to be uncertain, or is: creates wait for an accepted commit."""
        return self._partitions.uncommitted_for(time.monotonic()) > UNCOMMITTED_SECONDS

    def _refused(self, seconds: float) -> str:
        """Of updates, rejections and backlogs what has been refused for longest; empty where that is not so long."""
        found = [refusal for limiter in self._limiters if (refusal := limiter.oldest)]
        oldest = min(found, key=lambda refusal: refusal.since, default=None)
        if oldest is None or time.monotonic() - oldest.since < seconds:
            return ""
        others = sum(limiter.refused for limiter in self._limiters) - 1
        more = f" ({others:,} more are refused)" if others else ""
        return f"{oldest.what}: {oldest.message}"[:MAX_MESSAGE] + more

    def _made_above(self) -> int:
        return sum(partition.tracker.made_above for partition in self._partitions if partition.tracker)

    def _held_up(self, refused: str) -> str:
        known = [partition for partition in self._partitions if partition.tracker]
        most = max(known, key=lambda partition: partition.tracker.made_above if partition.tracker else 0)
        return (
            f"over {MADE_LOW:,} updates are made and cannot be collected, as partition {most.number} stays at position"
            f" {most.position}: its record waits. {refused}"
        ).strip()

    @property
    def _starving(self) -> bool:
        return self._dispatcher.starving(STARVING_SECONDS)

    def _no(self, reason: str, message: str) -> Consuming:
        return Consuming(False, reason, message, self._context.stream.generation)
