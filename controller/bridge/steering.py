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
#: Commits that have not been accepted for so long are told of, before creates stand still for want of them.
UNCOMMITTED_SECONDS = 5.0
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
        self._overflow = overflow
        self._partitions = partitions
        self._member = member
        #: Of the memory that a stream may use when there are few: see `streams.share`.
        self._share = share
        self._spilling = Spilling(dispatch, overflow, partitions, counts)
        #: What the brokers refuse for now.
        self.broker_error: KafkaError | None = None
        #: What they refuse this member, until it is assigned or sent something.
        self.refused: KafkaError | None = None
        #: What keeps some partitions from being read, by who found it; the others go on.
        self.troubles: dict[object, KafkaError] = {}
        self.paused = False
        self._looked = time.monotonic()

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
        else:
            self._spilling.pass_over(now - self._looked)
        self._looked = now
        self.steer()

    def steer(self) -> None:
        """Pause or resume reading, with hysteresis."""
        self._dispatch.halted = self._suspended
        limit = (LOW_WATER if self.paused else HIGH_WATER) * self._share()
        paused = self._suspended or self._starving or self._overflow.full or self.memory > limit
        if paused != self.paused:
            self.paused = paused
            (self._member.pause if paused else self._member.resume)()

    def condition(self) -> Consuming | None:
        """None where this replica has no partitions and no trouble: then it is for another one to tell."""
        if error := self.broker_error or self.refused:
            return self._no(error.reason, str(error))
        if self._uncommitted:
            said = self._partitions.commit_refused or "the group's coordinator answers none"
            return self._no("CommitsRefused", f"Kafka accepts no commit, so nothing is created: {said}"[:MAX_MESSAGE])
        if self._suspended:
            return self._no("Suspended", "spec.suspend.ingest is true")
        if error := next(iter(self.troubles.values()), None):
            return self._no(error.reason, str(error))
        if not len(self._partitions):
            return None
        if self._overflow.full:
            return self._no("BacklogFull", "a user has more records waiting than a UserBacklog holds")
        if self._starving:
            taken = self._dispatch.slots.taken
            return self._no("MaxObjectsReached", f"{taken} updates are unfinished: limits.maxObjects allows no more")
        if (brake := self._refused).failing_for() > REFUSED_SECONDS:
            return self._no("CreatesRefused", brake.last_error[:MAX_MESSAGE])
        if self.paused:
            return self._no("BacklogFull", "more records wait than memory and backlogs may hold")
        return Consuming(True, "Consuming", "records are read", self._dispatch.stream.generation)

    @property
    def _suspended(self) -> bool:
        return self._dispatch.stream.suspend.ingest

    @property
    def _creating(self) -> bool:
        """Nothing but slots keeps records waiting: then a user who waits is in the way, else it is an outage."""
        trouble = self._suspended or self.broker_error or self.refused or self._refused.failing_for()
        return not (trouble or self._uncommitted)

    @property
    def _uncommitted(self) -> bool:
        """The assignment is about to be uncertain, or is: creates wait for an accepted commit."""
        return self._partitions.uncommitted_for(time.monotonic()) > UNCOMMITTED_SECONDS

    @property
    def _refused(self) -> Brake:
        """Of updates, rejections and backlogs the kind whose writes have been refused for longest, if any have."""
        return max(self._brakes, key=Brake.failing_for)

    @property
    def _starving(self) -> bool:
        return self._dispatch.starving(STARVING_SECONDS)

    def _no(self, reason: str, message: str) -> Consuming:
        return Consuming(False, reason, message, self._dispatch.stream.generation)
