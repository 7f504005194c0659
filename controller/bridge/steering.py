"""How much is read ahead: partitions pause and go on, users spill into backlogs; and the condition that says so."""

from __future__ import annotations

import time
from collections.abc import Callable

from controller.bridge.backlogwriting import BacklogWriter
from controller.bridge.brake import Brake
from controller.bridge.dispatch import Dispatch
from controller.bridge.overflow import Overflow
from controller.bridge.partitions import Partitions
from controller.bridge.rejecting import Rejecter
from controller.bridge.reporting import Consuming, Counts
from controller.bridge.spilling import Spilling
from controller.kafka import GroupMember, KafkaError

#: Memory for records that wait: with librdkafka's queues, what is on its way and what is read again, under 32 MiB.
HIGH_WATER = 18 << 20
LOW_WATER = 12 << 20
#: With no slot for anybody for so long the partitions pause, whatever memory there is.
STARVING_SECONDS = 1.0
#: Records on their way into backlogs: no memory for records counts them. A second's, where backlogs can be written.
MAX_UNSAVED = 20_000
#: Creates that have been refused for so long are told of.
REFUSED_SECONDS = 2.0
MAX_MESSAGE = 1000


class Steering:
    def __init__(
        self,
        dispatch: Dispatch,
        rejecter: Rejecter,
        writer: BacklogWriter,
        overflow: Overflow,
        partitions: Partitions,
        member: GroupMember,
        counts: Callable[[], Counts],
        share: Callable[[], float],
    ) -> None:
        self._dispatch = dispatch
        self._rejecter = rejecter
        self._brakes = (dispatch.brake, rejecter.brake, writer.brake)
        self._writer = writer
        self._overflow = overflow
        self._partitions = partitions
        self._member = member
        #: Of the memory that a stream may use when there are few: see `streams.share`.
        self._share = share
        self._spilling = Spilling(dispatch, overflow, partitions, counts, writer.may_begin)
        #: What the brokers refuse for now.
        self.broker_error: KafkaError | None = None
        #: What they refuse this member, until it is assigned or sent something.
        self.refused: KafkaError | None = None
        self.paused = False

    @property
    def memory(self) -> int:
        return self._dispatch.lanes.cost + self._rejecter.cost

    def look(self) -> None:
        """Time has passed: that nothing happens is no event."""
        now = time.monotonic()
        if self._creating:
            if self.memory > HIGH_WATER * self._share():
                self._spilling.make_room(self.memory - int(LOW_WATER * self._share()), now)
            self._spilling.unblock(now)
        self.steer()

    def steer(self) -> None:
        """Pause or resume reading, with hysteresis."""
        self._dispatch.halted = self._suspended
        limit = (LOW_WATER if self.paused else HIGH_WATER) * self._share()
        paused = self._suspended or self._starving or self._overflow.full or self.memory > limit
        paused |= self._overflow.unsaved > MAX_UNSAVED
        if paused != self.paused:
            self.paused = paused
            (self._member.pause if paused else self._member.resume)()

    def condition(self) -> Consuming | None:
        """None where this replica has no partitions and no trouble: then it is for another one to tell."""
        if error := self.broker_error or self.refused:
            return self._no(error.reason, str(error))
        if self._suspended:
            return self._no("Suspended", "spec.suspend.ingest is true")
        if not len(self._partitions):
            return None
        if self._overflow.full:
            return self._no("BacklogFull", "a user has more records waiting than a UserBacklog holds")
        if self._starving:
            taken = self._dispatch.slots.taken
            return self._no("MaxObjectsReached", f"{taken} updates are unfinished: limits.maxObjects allows no more")
        if (brake := self._refused).failing_for() > REFUSED_SECONDS:
            return self._no("CreatesRefused", brake.last_error[:MAX_MESSAGE])
        if (refusal := self._writer.refused()) and time.monotonic() - refusal.since > REFUSED_SECONDS:
            return self._no("CreatesRefused", refusal.message[:MAX_MESSAGE])
        if self.paused:
            return self._no("BacklogFull", "more records wait than memory and backlogs may hold")
        return Consuming(True, "Consuming", "records are read", self._dispatch.stream.generation)

    @property
    def _suspended(self) -> bool:
        return self._dispatch.stream.suspend.ingest

    @property
    def _creating(self) -> bool:
        """Nothing but slots keeps records waiting: then a user who waits is in the way, else it is an outage.

        Where it is backlogs that cannot be written, they themselves say how many more may be begun.
        """
        refused = any(brake.failing_for() for brake in self._brakes[:2])
        return not (self._suspended or self.broker_error or self.refused or refused)

    @property
    def _refused(self) -> Brake:
        """Of updates, rejections and backlogs the kind whose writes have been refused for longest, if any have."""
        return max(self._brakes, key=Brake.failing_for)

    @property
    def _starving(self) -> bool:
        return self._dispatch.starving(STARVING_SECONDS)

    def _no(self, reason: str, message: str) -> Consuming:
        return Consuming(False, reason, message, self._dispatch.stream.generation)
