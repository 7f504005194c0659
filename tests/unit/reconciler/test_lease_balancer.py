"""When a controller hands over Leases: after a while, a few at a time, and less often where nobody acquires them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from controller.reconciler import lease_balancer as module
from controller.reconciler.lease_balancer import MAX_STABILIZATION_SECONDS, STABILIZATION_SECONDS, LeaseBalancer


@dataclass(frozen=True, slots=True)
class Seen:
    holder: str
    free: bool = False


@dataclass(slots=True)
class World:
    """The Leases and controllers that there are, as LeaseWatch and ProcessWatch show them."""

    leases: dict[str, Seen] = field(default_factory=dict)
    controllers: set[str] = field(default_factory=set)

    def observed(self, _: str, name: str) -> Seen | None:
        return self.leases.get(name)


@dataclass(eq=False, slots=True)
class Wanted:
    name: str
    taken: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return "default", self.name


def balancer(world: World, own: int, of: int) -> tuple[LeaseBalancer, list[Wanted]]:
    """A controller `a` that holds so many of so many Leases."""
    made = LeaseBalancer("a", cast(Any, world), cast(Any, world))
    wanted = [Wanted(f"lease-{number}", number < own) for number in range(of)]
    for lease in wanted:
        made.add(lease)
    return made, wanted


def test_who_lives_counts_with_or_without_a_lease() -> None:
    world = World({"lease-2": Seen("b"), "lease-3": Seen("old")}, {"a", "b", "new"})
    made, _ = balancer(world, own=2, of=4)
    assert made._held() == {"a": 2, "b": 1, "old": 1, "new": 0}


def test_who_lets_leases_run_out_does_not_count_any_more() -> None:
    world = World({"lease-2": Seen("b", free=True), "lease-3": Seen("")}, {"b"})
    made, _ = balancer(world, own=2, of=4)
    assert made._held() == {"a": 2}
    assert made.surplus == 0 and made.patience == 0


def test_a_lease_whose_stream_is_gone_is_nobodys_part() -> None:
    made, wanted = balancer(World({}, {"b"}), own=4, of=4)
    assert made.surplus == 2
    for lease in wanted[:2]:
        made.remove(lease)
    assert made.surplus == 1


def test_what_came_back_is_given_ever_more_seldom_until_somebody_takes_it() -> None:
    world = World({}, {"b"})
    made, wanted = balancer(world, own=4, of=4)
    pauses: Counter[float] = Counter()
    for _ in range(10):
        made._given = {wanted[0]}
        assert made._came_back()
        pauses[made._delay] += 1
    assert min(pauses) == 2 * STABILIZATION_SECONDS and max(pauses) == MAX_STABILIZATION_SECONDS
    made._given = {wanted[0]}
    wanted[0].taken, world.leases["lease-0"] = False, Seen("b")
    assert not made._came_back()
    assert made._delay == STABILIZATION_SECONDS and not made._given


def test_what_nobody_has_yet_is_waited_for() -> None:
    made, wanted = balancer(World({"lease-0": Seen("", free=True)}, {"b"}), own=4, of=4)
    wanted[0].taken, made._given = False, {wanted[0]}
    assert not made._came_back()
    assert made._given == {wanted[0]} and made._delay == STABILIZATION_SECONDS


async def test_where_nothing_can_be_given_it_is_tried_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try keeps the calls of some streams waiting for a second, and there was one each second."""
    monkeypatch.setattr(module, "PERIOD", 0.0)
    made, _ = balancer(World({}, {"b"}), own=4, of=4)
    made._delay = 0.001
    tried = asyncio.Semaphore(0)

    async def hand_over(count: int) -> list[Wanted]:
        tried.release()
        return []

    running = asyncio.create_task(made.run(hand_over))
    try:
        async with asyncio.timeout(60):
            for _ in range(5):
                await tried.acquire()
    finally:
        running.cancel()
    assert made._delay >= 0.016
