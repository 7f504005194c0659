"""What Kafka refuses a member of the group, and what keeps it out of the group: words for the stream's condition.

A member that is not let in is told so in some cases. In others librdkafka waits without a word, for instance for a
coordinator: so the group is also looked at from outside, and whoever has had no place for a while says what was seen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Final

from controller import kafka
from controller.api import names
from controller.bridge.context import ConsumerContext
from controller.logs import sparingly

logger = logging.getLogger(__name__)

#: The reason of the condition while the group has no place for a member, and no error says why.
JOINING: Final = "Joining"
#: A rebalance takes seconds, and a static member that was killed is given up after ten.
JOINING_SECONDS = 15.0


class Joining:
    """How one member stands with its group."""

    def __init__(self, context: ConsumerContext, member: kafka.GroupMember) -> None:
        self._context = context
        self._topic = context.topic.name
        self.group = context.group
        self._suffix = names.member_suffix(context.stream.namespace, context.stream.name)
        self._member = member
        #: What keeps some partitions from being read, by who found it; the others go on.
        self.troubles: dict[object, kafka.KafkaError] = {}
        #: Whether the group has given this member its partitions, if only none; it may have lost them since.
        self.joined = False
        #: Since when (monotonic) it has had no place; None: it has one.
        self._since: float | None = time.monotonic()
        #: What the member was refused; what the group could not be asked.
        self._refused: kafka.KafkaError | None = None
        self._unseen: kafka.KafkaError | None = None
        #: All partitions are read by members of this stream, as last seen.
        self._read = False
        #: Why it has no place, where no error says so; empty: it has one, or has not waited for long.
        self.waits = ""

    @property
    def wanted(self) -> set[int]:
        """The topic's partitions."""
        return set(range(self._context.partition_count))

    def assigned(self) -> None:
        self.joined, self._since, self._unseen, self.waits = True, None, None, ""
        self.served()

    def lost(self) -> None:
        """The group goes on without this member, which joins again."""
        self._since = time.monotonic()

    def refused(self, error: kafka.KafkaError, partition: int | None) -> None:
        """Something that librdkafka asks for again by itself."""
        where = {"group": self.group, **({} if partition is None else {"partition": partition})}
        sparingly(logger, "Kafka refuses", (self.group, partition, error.reason), **where, cause=str(error))
        if partition is None:
            self._refused = error
        else:
            self.troubles["fetch", partition] = error

    def served(self) -> None:
        """The member was sent something, or a commit of it was accepted."""
        self._refused = None

    def fetched(self, partitions: Iterable[int]) -> None:
        """What these refused they do not refuse any more, or they are another member's."""
        for partition in partitions:
            self.troubles.pop(("fetch", partition), None)

    @property
    def unfetched(self) -> set[int]:
        """Partitions that were refused when they were fetched."""
        return {who[1] for who in self.troubles if isinstance(who, tuple) and who[0] == "fetch"}

    def told(self, unassigned: set[int], others: Mapping[int, str]) -> None:
        """Partitions that no member has, and those that members of other streams or applications have."""
        nobody = _unassigned(self.group, self._topic, sorted(unassigned)) if unassigned else None
        self._trouble("unassigned", nobody)
        self._trouble("shared", _shared(self.group, self._topic, others) if others else None)

    def silent(self, partitions: set[int]) -> None:
        """These do not answer; none: they do."""
        self._trouble("silent", kafka.leaderless(self._topic, sorted(partitions)) if partitions else None)

    def held_up(self, partitions: Mapping[int, int]) -> None:
        """At these offsets, by partition, reading waits for the end of a transaction; none: nowhere."""
        self._trouble("transaction", _open_transaction(self._topic, partitions) if partitions else None)

    def _trouble(self, who: str, error: kafka.KafkaError | None) -> None:
        if error is not None:
            self.troubles[who] = error
        else:
            self.troubles.pop(who, None)

    def strangers(self, seen: kafka.GroupDescription) -> dict[int, str]:
        """Partitions that others than the stream's own members have, and the names of these."""
        return {number: name for number, name in seen.owners.items() if not name.endswith(self._suffix)}

    def look(self, seen: kafka.GroupDescription | kafka.KafkaError) -> None:
        """The group from outside."""
        if isinstance(seen, kafka.KafkaError):
            self._unseen = seen
            return
        self._unseen = None
        self._read = seen.stable and self.wanted <= seen.owners.keys() - self.strangers(seen).keys()
        waits = self._since is not None and time.monotonic() - self._since >= JOINING_SECONDS and not self._read
        self.waits = _not_taken_in(self.group, seen, self._member.last_error) if waits else ""

    def error(self, *, alone: bool) -> kafka.KafkaError | None:
        """What the condition is to say. `alone`: this member has no partition.

        Who has none is silent where others read them all: else the two would contradict each other in turns. Who has
        some need not be told of a coordinator: its commits are.
        """
        if not alone:
            return self._refused
        return None if self._read else self._refused or self._unseen


def _unassigned(group: str, topic: str, partitions: Iterable[int]) -> kafka.KafkaError:
    """The error for the condition while no member of the group has these partitions."""
    numbers = ", ".join(map(str, partitions))
    return kafka.KafkaError(
        "PartitionsUnassigned",
        f"of topic {topic} no member of group {group} has these partitions: {numbers};"
        " the bridge makes the group rebalance",
    )


def _shared(group: str, topic: str, owners: Mapping[int, str]) -> kafka.KafkaError:
    """The error for the condition while members of other streams or applications have these partitions."""
    numbers = ", ".join(map(str, sorted(owners)))
    members = ", ".join(sorted(set(owners.values()))[:3])
    return kafka.KafkaError(
        "GroupShared",
        f"of topic {topic} other members of group {group} have these partitions: {numbers}; this stream gets no record"
        f" of them. The members: {members}. Give each stream a group of its own",
    )


def _not_taken_in(name: str, group: kafka.GroupDescription, last_error: str) -> str:
    """The message of the condition while the group has no place for this member."""
    members = ", ".join(group.members[:5]) or "none"
    words = f"group {name} has not taken this bridge in yet: it is {group.state}, its members are {members}"
    return f"{words}. The Kafka client said last: {last_error}" if last_error else words


def _open_transaction(topic: str, offsets: Mapping[int, int]) -> kafka.KafkaError:
    """The error for the condition while transactions are open at these offsets, by partition."""
    where = ", ".join(f"{partition} at offset {offset}" for partition, offset in sorted(offsets.items()))
    return kafka.KafkaError(
        "TransactionOpen",
        f"of topic {topic} these partitions are read no further, as a producer's transaction is open there: {where};"
        " reading goes on when it is committed, aborted or timed out",
    )
