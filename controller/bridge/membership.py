"""The state of this replica in its consumer group, and why partitions are not read, for the condition Consuming.

The member itself does not learn all of it, so an admin client asks the brokers as well:

- A member that cannot join does not always receive an error. librdkafka waits silently, for instance for a coordinator.
- The coordinator gives a static member that comes back the assignment that it had, and does not count the partitions
  again. Partitions that were added meanwhile, or came with a topic made again, would never be assigned.
- Another stream or application may be in the group by mistake. It is assigned partitions like any other member, and
  nobody would miss their records.
- A partition may have no leader, or be read up to an open transaction. Nothing is refused then, and nothing comes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Final

from controller import kafka, logs
from controller.api import names
from controller.bridge.context import ConsumerContext
from controller.bridge.partitions import Partition

logger = logging.getLogger(__name__)

#: The reason of the condition while the group has no place for a member, and no error says why.
JOINING: Final = "Joining"
#: A rebalance takes seconds, and the session of a static member that was killed ends after ten.
JOINING_SECONDS = 15.0
#: Seconds between looks at the group; at the beginning, and while something is wrong with it.
GROUP_SECONDS = 10.0
GROUP_SOON_SECONDS = 5.0
#: Seconds until the member asks for another rebalance, where one has not helped; doubled each time, up to the most.
REBALANCE_SECONDS = 20.0
MAX_REBALANCE_SECONDS = 300.0
#: Seconds between looks at the ends of the partitions.
ENDS_SECONDS = 5.0


class GroupMembership:
    """Watches one member and its group. The results are `error`, `waits` and the context's `partition_errors`."""

    def __init__(self, context: ConsumerContext, member: kafka.GroupMember) -> None:
        self._context = context
        self._member = member
        self._topic = context.topic.name
        self._group = context.group
        self._suffix = names.member_suffix(context.stream.namespace, context.stream.name)
        self._errors = context.partition_errors
        #: The group has given this member its partitions, perhaps none. It may have lost them since.
        self.joined = False
        #: Since when this member is not in the group, by the monotonic clock; None: it is.
        self._outside_since: float | None = time.monotonic()
        #: The error of the request of this member that was refused last, and why the group could not be described.
        self._refused: kafka.KafkaError | None = None
        self._undescribed: kafka.KafkaError | None = None
        #: All partitions are assigned to members of this stream, as last seen.
        self._all_assigned = False
        #: Why this member is not in the group, where no error says so; empty: it is, or has not waited for long.
        self.waits = ""

    def background(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """The coroutines that are to run until the consumer ends."""
        return self._watch_group(), self._watch_ends()

    def error(self, *, without_partitions: bool) -> kafka.KafkaError | None:
        """The error for the condition, about the member as a whole.

        A member without partitions says nothing where others read them all: else the two would overwrite each other's
        condition in turns. One with partitions does not report the coordinator: its commits do.
        """
        if not without_partitions:
            return self._refused
        return None if self._all_assigned else self._refused or self._undescribed

    # Notifications of the member

    def assigned(self) -> None:
        """The coordinator has assigned partitions to this member, perhaps none."""
        self.joined, self._outside_since, self._undescribed, self.waits = True, None, None, ""
        self.served()

    def lost(self) -> None:
        """The group goes on without this member, which joins again."""
        self._outside_since = time.monotonic()

    def refused(self, error: kafka.KafkaError, partition: int | None) -> None:
        """The brokers refuse a request, which librdkafka repeats by itself."""
        where = {"group": self._group, **({} if partition is None else {"partition": partition})}
        logs.sparingly(logger, "Kafka refuses", (self._group, partition, error.reason), **where, cause=str(error))
        if partition is None:
            self._refused = error
        else:
            self._errors["fetch", partition] = error

    def served(self) -> None:
        """The member was sent something, or a commit of it was accepted."""
        self._refused = None

    def fetched(self, partitions: Iterable[int]) -> None:
        """These partitions can be fetched again, or were revoked."""
        for partition in partitions:
            self._errors.pop(("fetch", partition), None)

    # The group

    async def _watch_group(self) -> None:
        """Describe the group again and again. Where partitions are assigned to nobody, ask for a rebalance.

        A fault is reported when it was found twice in a row. Each member asks for a rebalance by itself. The
        coordinator rebalances only when the group's leader asks, and answers the others with the assignment that they
        have. Neither revokes a partition (docs/decisions/0048-what-kafka-answers.md).
        """
        missing_before: set[int] = set()
        foreign_before: Mapping[int, str] = {}
        delay, not_before = REBALANCE_SECONDS, 0.0
        pause = GROUP_SOON_SECONDS
        while True:
            await asyncio.sleep(pause)
            try:
                group = await self._context.lookup.describe_group(self._group)
            except kafka.KafkaError as error:
                logger.debug("Assignment not looked at: %s", error)
                self.undescribed(error)
                continue
            self.described(group)
            if not group.stable:  # a rebalance is under way
                continue
            # A static member keeps partitions that a topic made again no longer has, which does no harm.
            missing = self._wanted - group.owners.keys()
            lasting, missing_before = missing & missing_before, missing
            foreign = {number: name for number, name in self._foreign(group).items() if number in self._wanted}
            staying = {number: name for number, name in foreign.items() if number in foreign_before}
            foreign_before = foreign
            pause = GROUP_SOON_SECONDS if missing or foreign else GROUP_SECONDS
            self._set_error("unassigned", _unassigned(self._group, self._topic, sorted(lasting)) if lasting else None)
            self._set_error("shared", _shared(self._group, self._topic, staying) if staying else None)
            if not missing:
                delay, not_before = REBALANCE_SECONDS, 0.0
            elif lasting and time.monotonic() >= not_before:
                numbers = logs.fields(group=self._group, partitions=sorted(lasting))
                logger.warning("Partitions are assigned to nobody: joining again", extra=numbers)
                self._member.enforce_rebalance()
                not_before = time.monotonic() + delay
                delay = min(2 * delay, MAX_REBALANCE_SECONDS)

    def described(self, group: kafka.GroupDescription) -> None:
        """The group as its coordinator sees it."""
        self._undescribed = None
        self._all_assigned = group.stable and self._wanted <= group.owners.keys() - self._foreign(group).keys()
        waits = self._outside_since is not None and time.monotonic() - self._outside_since >= JOINING_SECONDS
        self.waits = (
            _not_in_group(self._group, group, self._member.last_error) if waits and not self._all_assigned else ""
        )

    def undescribed(self, error: kafka.KafkaError) -> None:
        """Why the group could not be described."""
        self._undescribed = error

    @property
    def _wanted(self) -> set[int]:
        """The topic's partitions."""
        return set(range(self._context.partition_count))

    def _foreign(self, group: kafka.GroupDescription) -> dict[int, str]:
        """Partitions that are assigned to members of other streams or applications, and their names."""
        return {number: name for number, name in group.owners.items() if not name.endswith(self._suffix)}

    # The ends of the partitions

    async def _watch_ends(self) -> None:
        """Ask for the ends of the partitions, for the lag, and find the partitions that are not read.

        A fault is reported when it was found twice in a row: by then an election is over, and a usual transaction has
        ended.
        """
        # Reading stops at an open transaction.
        committed = self._context.stream.kafka.config.get("isolation.level") != "read_uncommitted"
        silent_before: set[int] = set()
        behind_before: Mapping[int, int] = {}
        partitions = self._context.partitions
        while True:
            try:
                ends = await self._context.lookup.watermarks([partition.number for partition in partitions])
            except kafka.KafkaError as error:
                logger.debug("Lag not measured: %s", error)
            else:
                silent = {partition.number for partition in self._context.held} - ends.keys()
                lasting, silent_before = silent & silent_before, silent
                self._set_error("silent", kafka.leaderless(self._topic, sorted(lasting)) if lasting else None)
                for partition in partitions:
                    partition.answers = partition.number in ends
                    if partition.answers:
                        partition.high = ends[partition.number].high
                behind = _behind(partitions)
                if committed:
                    open_at = await self._transactions(dict(behind.items() & behind_before.items()))
                    self._set_error("transaction", _open_transaction(self._topic, open_at) if open_at else None)
                behind_before = behind
            if again := self._refused_offsets():
                self._member.fetch_from(again)
            await asyncio.sleep(ENDS_SECONDS)

    async def _transactions(self, offsets: Mapping[int, int]) -> dict[int, int]:
        """The offsets among these, by partition, at which a transaction is open: reading goes no further there."""
        if not offsets:
            return {}
        try:
            stable = await self._context.lookup.last_stable_offsets(offsets)
        except kafka.KafkaError as error:
            logger.debug("Transactions not looked for: %s", error)
            return {}
        return {number: at for number, at in offsets.items() if stable.get(number, at + 1) <= at}

    def _refused_offsets(self) -> dict[tuple[int, int], int]:
        """The next offset of each partition that could not be fetched, with the serial of its assignment.

        The partition is fetched from there anew. If it has no new records, its end is notified; nothing else would show
        that it can be fetched again.
        """
        refused = {who[1] for who in self._errors if isinstance(who, tuple) and who[0] == "fetch"}
        known = ((each, each.tracker) for each in self._context.partitions if each.number in refused)
        return {(partition.number, partition.serial): tracker.next for partition, tracker in known if tracker}

    def _set_error(self, who: str, error: kafka.KafkaError | None) -> None:
        if error is not None:
            self._errors[who] = error
        else:
            self._errors.pop(who, None)


def _behind(partitions: Iterable[Partition]) -> dict[int, int]:
    """The next offset of each partition that has further records."""
    return {
        partition.number: partition.tracker.next
        for partition in partitions
        if partition.tracker and partition.answers and partition.tracker.next < (partition.high or 0)
    }


def _unassigned(group: str, topic: str, partitions: Iterable[int]) -> kafka.KafkaError:
    """No member of the group has these partitions."""
    numbers = ", ".join(map(str, partitions))
    return kafka.KafkaError(
        "PartitionsUnassigned",
        f"of topic {topic} no member of group {group} has these partitions: {numbers};"
        " the bridge makes the group rebalance",
    )


def _shared(group: str, topic: str, owners: Mapping[int, str]) -> kafka.KafkaError:
    """Members of other streams or applications have these partitions."""
    numbers = ", ".join(map(str, sorted(owners)))
    members = ", ".join(sorted(set(owners.values()))[:3])
    return kafka.KafkaError(
        "GroupShared",
        f"of topic {topic} other members of group {group} have these partitions: {numbers}; this stream gets no record"
        f" of them. The members: {members}. Give each stream a group of its own",
    )


def _not_in_group(name: str, group: kafka.GroupDescription, last_error: str) -> str:
    """The group has no place for this member."""
    members = ", ".join(group.members[:5]) or "none"
    words = f"group {name} has not taken this bridge in yet: it is {group.state}, its members are {members}"
    return f"{words}. The Kafka client said last: {last_error}" if last_error else words


def _open_transaction(topic: str, offsets: Mapping[int, int]) -> kafka.KafkaError:
    """Transactions are open at these offsets, by partition."""
    where = ", ".join(f"{partition} at offset {offset}" for partition, offset in sorted(offsets.items()))
    return kafka.KafkaError(
        "TransactionOpen",
        f"of topic {topic} these partitions are read no further, as a producer's transaction is open there: {where};"
        " reading goes on when it is committed, aborted or timed out",
    )
