"""Limits how much is read ahead: pauses and resumes all partitions of a consumer, and moves users into backlogs."""

from __future__ import annotations

import time

from controller.bridge.backlogs import Backlogs
from controller.bridge.context import ConsumerContext
from controller.bridge.dispatch import Dispatcher
from controller.bridge.membership import GroupMembership
from controller.kafka import GroupMember

#: Bytes of read-ahead at which reading pauses, and below which it resumes. Together with librdkafka's queues, with
#: what its thread has delivered and the event loop has not taken up, and with what is fetched again, a stream takes
#: less than 32 MiB.
HIGH_WATER = 18 << 20
LOW_WATER = 12 << 20
#: Bytes that each offset counts for while no UserBacklog lists it, as many as a small record takes: where backlogs
#: cannot be written, moving records there must not make room for more. Some 20,000 of them fill a stream's memory.
UNWRITTEN_COST = 900
#: Seconds without a slot for any user after which reading pauses, whatever memory there is.
STARVING_SECONDS = 1.0
#: Seconds without an accepted commit until the condition says so. It does before creates stop for lack of one.
UNCOMMITTED_SECONDS = 5.0
#: Reading pauses at so many UserUpdates above the positions of a stream's partitions, and resumes below the lower
#: number: none of them can be collected. A user who is stuck holds a position up for seconds, not for so many updates.
CREATED_HIGH = 20_000
CREATED_LOW = 15_000


class Pausing:
    """Pauses and resumes all partitions of one consumer."""

    def __init__(
        self,
        context: ConsumerContext,
        dispatcher: Dispatcher,
        backlogs: Backlogs,
        member: GroupMember,
        membership: GroupMembership,
    ) -> None:
        self._context = context
        self._dispatcher = dispatcher
        self._backlogs = backlogs
        self._partitions = context.partitions
        self._member = member
        self._membership = membership
        self.paused = False
        #: Memory of offsets that are not written yet, as last looked at.
        self._unwritten = 0
        self._looked = time.monotonic()

    @property
    def starving(self) -> bool:
        """Users wait for a first update, and `maxObjects` has allowed none to anybody for a while."""
        return self._dispatcher.starving(STARVING_SECONDS)

    @property
    def unfinished(self) -> int:
        """Unfinished updates of the stream."""
        return self._dispatcher.working_set.taken

    @property
    def uncommitted(self) -> bool:
        """No commit was accepted for a while: the assignment is about to be uncertain, and creates wait."""
        return self._partitions.uncommitted_for(time.monotonic()) > UNCOMMITTED_SECONDS

    def observe(self) -> None:
        """Called every half second, as no event shows that nothing happens for a while. Moves users into backlogs."""
        now = time.monotonic()
        self._unwritten = UNWRITTEN_COST * self._backlogs.unwritten
        memory, share = self._context.read_ahead.total, self._context.memory_share
        if self._only_slots_are_missing:
            if memory > HIGH_WATER * share:
                self._backlogs.make_room(memory - int(LOW_WATER * share), now)
            self._backlogs.release_positions(now)
        else:
            self._backlogs.ignore(now - self._looked)
        self._looked = now
        self.update()

    def slot_freed(self) -> None:
        """A slot in the working set may have become free."""
        if self.paused:
            self.update()

    def update(self) -> None:
        """Pause or resume reading, with hysteresis."""
        suspended = self._context.stream.suspend.ingest
        self._dispatcher.halted = suspended
        self._context.position_held = self._created_above() > (
            CREATED_LOW if self._context.position_held else CREATED_HIGH
        )
        limit = (LOW_WATER if self.paused else HIGH_WATER) * self._context.memory_share
        waits = self.starving or self._backlogs.full or self._context.position_held
        paused = suspended or waits or self._context.read_ahead.total + self._unwritten > limit
        if paused != self.paused:
            self.paused = paused
            (self._member.pause if paused else self._member.resume)()

    @property
    def _only_slots_are_missing(self) -> bool:
        """Whether records wait for nothing but a slot in the working set. Then one user may keep others waiting.

        Otherwise there is an outage, and no user is moved into a backlog because of it. Refused RejectedEvents are no
        outage, as no user waits for them. Where backlogs cannot be written, their writer limits how many are begun.
        """
        trouble = (
            self._context.stream.suspend.ingest
            or self._context.topic_error
            or self._context.start_error
            or self._membership.error(without_partitions=False)
        )
        return not (trouble or self._dispatcher.limiter.failing_for() or self.uncommitted)

    def _created_above(self) -> int:
        return sum(partition.tracker.created_above for partition in self._partitions if partition.tracker)
