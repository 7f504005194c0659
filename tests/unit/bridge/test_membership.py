"""What a member that is not let into its group says of that, and when it is for others to say something."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller.bridge import membership
from controller.bridge.context import ConsumerContext
from controller.bridge.membership import GroupMembership
from controller.kafka import GroupDescription, KafkaError
from tests.support.bridge import make_consumer_context
from tests.support.builders import make_stream

GROUP = make_stream().kafka.group_id


def make_membership(said: str = "", context: ConsumerContext | None = None) -> GroupMembership:
    member = SimpleNamespace(last_error=said)
    return GroupMembership(context or make_consumer_context(), cast(Any, member))


def group(state: str = "STABLE", **members: set[int]) -> GroupDescription:
    names = {"other": "bridge-b.default.user-updates", "stranger": "rdkafka-1"}
    holders = {number: names[member] for member, numbers in members.items() for number in numbers}
    return GroupDescription(state, state == "STABLE", [names[member] for member in members], holders)


def test_who_has_waited_for_long_says_what_the_group_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    member = make_membership("kafka-2:9092: Connect failed")
    member.described(group("PREPARING_REBALANCING", stranger=set()))
    assert not member.waits, "a rebalance takes seconds"
    monkeypatch.setattr(membership, "JOINING_SECONDS", 0.0)
    member.described(group("PREPARING_REBALANCING", stranger=set()))
    words = (GROUP, "PREPARING_REBALANCING", "rdkafka-1", "kafka-2:9092: Connect failed")
    assert all(word in member.waits for word in words)
    member.assigned()
    assert not member.waits
    member.described(group("EMPTY"))
    assert not member.waits
    member.lost()
    member.described(group("EMPTY"))
    assert "EMPTY, its members are none" in member.waits


def test_who_is_refused_says_so_until_it_is_served() -> None:
    member = make_membership()
    refusal = KafkaError("GroupRefused", "full")
    for served in (member.assigned, member.served):
        member.refused(refusal, None)
        assert member.error(without_partitions=True) is member.error(without_partitions=False) is refusal
        served()
        assert member.error(without_partitions=True) is None


def test_a_partition_that_cannot_be_fetched_is_in_trouble_by_itself() -> None:
    context = make_consumer_context()
    member = make_membership(context=context)
    refusals = [KafkaError("BrokerRefused", f"{number}") for number in (0, 1)]
    for number, refusal in enumerate(refusals):
        member.refused(refusal, number)
    assert list(context.partition_errors.values()) == refusals
    assert member.error(without_partitions=False) is None
    member.fetched([1, 7])
    assert list(context.partition_errors.values()) == refusals[:1]


@pytest.mark.parametrize(
    ("seen", "silent"),
    [
        (group(other={0, 1}), True),
        (group(other={0}), False),
        (group(other={0}, stranger={1}), False),
        (group(stranger={0, 1}), False),
        (group("PREPARING_REBALANCING", other={0, 1}), False),
    ],
)
def test_where_other_bridges_read_all_it_is_for_them_to_tell(
    seen: GroupDescription, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "JOINING_SECONDS", 0.0)
    member = make_membership()
    member.refused(KafkaError("GroupRefused", "full"), None)
    member.described(seen)
    assert (member.error(without_partitions=True) is None) == (not member.waits) == silent


def test_a_group_that_cannot_be_seen_is_told_of_by_who_has_no_partition() -> None:
    member = make_membership()
    unseen = KafkaError("CoordinatorUnavailable", "none")
    member.undescribed(unseen)
    assert member.error(without_partitions=True) is unseen
    assert member.error(without_partitions=False) is None, "its commits tell"
    member.described(group(other={0}))
    assert member.error(without_partitions=True) is None
