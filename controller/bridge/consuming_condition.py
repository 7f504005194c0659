"""The condition Consuming of a stream: whether its records are read, and if not, why."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from controller.bridge.backlogs import Backlogs
from controller.bridge.context import ConsumerContext
from controller.bridge.membership import JOINING, GroupMembership
from controller.bridge.pausing import CREATED_LOW, Pausing
from controller.clients.process_lease import ProcessLease
from controller.clients.stream_status import NO_BRIDGE, condition, with_condition

#: Seconds of refusals until the condition names a write, and for which it goes on naming it: the refusals of a user
#: begin anew when the user's records are moved into a backlog.
REFUSED_SECONDS = 2.0
REPORTED_SECONDS = 4.0
MAX_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class Consuming:
    """The condition, as computed from that generation of the spec."""

    ok: bool | None
    reason: str
    message: str
    generation: int

    def write(self, status: Mapping[str, Any]) -> dict[str, Any]:
        """The status with this condition."""
        known = condition(status, "Consuming")
        if self.reason == NO_BRIDGE and known and known["reason"] == NO_BRIDGE:
            return dict(status)  # a controller has written it already, with a message of its own
        return with_condition(
            status,
            "Consuming",
            self.ok,
            self.reason,
            self.message,
            generation=self.generation,
            now=datetime.now(UTC),
        )


def unless_no_bridge(consuming: Consuming, process_lease: ProcessLease) -> Consuming:
    """The condition; NoBridge where the controllers cannot see this bridge and may write that.

    Else the two would overwrite each other in turns.
    """
    trouble = process_lease.trouble
    return Consuming(None, NO_BRIDGE, trouble, consuming.generation) if trouble else consuming


class ConsumerHealth:
    """Computes the condition from the state of one consumer and of all that it uses."""

    def __init__(
        self, context: ConsumerContext, backlogs: Backlogs, pausing: Pausing, membership: GroupMembership
    ) -> None:
        self._context = context
        self._partitions = context.partitions
        self._backlogs = backlogs
        self._pausing = pausing
        self._membership = membership
        #: The writes that the API server refuses, and until when (monotonic) the condition says so.
        self._reported = ""
        self._reported_until = 0.0

    def observe(self) -> None:
        """Called every half second, before users are moved into backlogs: find what has been refused for long."""
        if refused := self._longest_refused(REFUSED_SECONDS):
            self._reported, self._reported_until = refused, time.monotonic() + REPORTED_SECONDS

    def condition(self) -> Consuming | None:
        """The condition; None for a replica without partitions and without trouble: another one writes it then."""
        found = self._own_condition()
        return found and unless_no_bridge(found, self._context.bridge.process_lease)

    def _own_condition(self) -> Consuming | None:
        context = self._context
        without_partitions = not len(self._partitions)
        if error := context.topic_error or context.start_error:
            return self._not(error.reason, str(error))
        if error := self._membership.error(without_partitions=without_partitions):
            return self._not(error.reason, str(error))
        if self._pausing.uncommitted:
            said = self._partitions.commit_refused or "the group's coordinator answers none"
            return self._not("CommitsRefused", f"Kafka accepts no commit, so nothing is created: {said}"[:MAX_MESSAGE])
        if context.stream.suspend.ingest:
            return self._not("Suspended", "spec.suspend.ingest is set")
        if error := next(iter(context.partition_errors.values()), None):
            return self._not(error.reason, str(error))
        if without_partitions:
            waits = self._membership.waits[:MAX_MESSAGE]
            return Consuming(None, JOINING, waits, context.stream.generation) if waits else None
        return self._flow()

    def _flow(self) -> Consuming:
        """The condition of a member that has partitions whose records Kafka delivers."""
        if self._backlogs.full:
            return self._not("BacklogFull", "a user has more records waiting than a UserBacklog holds")
        if self._pausing.starving:
            taken = self._pausing.unfinished
            return self._not("MaxObjectsReached", f"{taken} updates are unfinished: limits.maxObjects allows no more")
        reported = self._reported if time.monotonic() < self._reported_until else ""
        if self._context.position_held:
            return self._not("PositionHeld", self._position_held(reported or self._longest_refused(0)))
        if reported:
            return self._not("CreatesRefused", reported)
        if self._pausing.paused:
            return self._not("BacklogFull", "more records wait than memory and backlogs may hold")
        return Consuming(True, "Consuming", "records are read", self._context.stream.generation)

    def _longest_refused(self, seconds: float) -> str:
        """The update, RejectedEvent or UserBacklog that is refused for longest; empty where none is for `seconds`."""
        limiters = self._context.limiters
        found = [refusal for limiter in limiters if (refusal := limiter.oldest)]
        oldest = min(found, key=lambda refusal: refusal.since, default=None)
        if oldest is None or time.monotonic() - oldest.since < seconds:
            return ""
        others = sum(limiter.refused for limiter in limiters) - 1
        more = f" ({others:,} more are refused)" if others else ""
        return f"{oldest.what}: {oldest.message}"[:MAX_MESSAGE] + more

    def _position_held(self, refused: str) -> str:
        known = [partition for partition in self._partitions if partition.tracker]
        most = max(known, key=lambda partition: partition.tracker.created_above if partition.tracker else 0)
        return (
            f"over {CREATED_LOW:,} updates are made and cannot be collected, as partition {most.number} stays at"
            f" position {most.position}: its record waits. {refused}"
        ).strip()

    def _not(self, reason: str, message: str) -> Consuming:
        return Consuming(False, reason, message, self._context.stream.generation)
