"""All lanes are to look again: nobody waits for those that hang, and few begin at a time."""

from __future__ import annotations

import asyncio

from controller.reconciler import waking
from controller.reconciler.waking import Waking
from tests.support.eventually import eventually_async


class Lane:
    """Begins its work when it is woken, and is done with it when it is told to."""

    def __init__(self, *, busy: bool = False, hangs: bool = False) -> None:
        self.woken = 0
        self.calling = hangs
        self._over = asyncio.Event()
        self._busy = busy

    @property
    def busy(self) -> bool:
        return self._busy

    def wake(self) -> None:
        self.woken += 1
        self._busy = True

    async def drained(self) -> None:
        await self._over.wait()

    def end(self) -> None:
        self._over.set()


async def reached(lane: Lane, within: float = 10.0) -> float:
    """Seconds until it was woken."""
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def there() -> bool:
        return lane.woken > 0

    await eventually_async(there, within, every=0.001)
    return loop.time() - begun


async def all_woken(lanes: list[Lane]) -> asyncio.Task[None]:
    wake = Waking(lambda: lanes)
    wake.ask()
    return asyncio.create_task(wake.run())


async def test_nobody_waits_for_a_thousand_lanes_that_were_busy_already() -> None:
    lanes = [*(Lane(busy=True, hangs=True) for _ in range(1000)), Lane()]
    task = await all_woken(lanes)
    assert await reached(lanes[-1]) < waking.SECONDS
    assert all(lane.woken == 1 for lane in lanes), "these look again too"
    task.cancel()


async def test_nobody_waits_long_for_a_thousand_that_begin_and_hang() -> None:
    lanes = [*(Lane(hangs=True) for _ in range(1000)), Lane()]
    task = await all_woken(lanes)
    assert await reached(lanes[-1]) < len(lanes) / waking.AT_ONCE * waking.SECONDS / 2
    task.cancel()


async def test_those_that_work_begin_a_few_at_a_time() -> None:
    lanes = [Lane() for _ in range(waking.AT_ONCE + 1)]
    task = await all_woken(lanes)
    await reached(lanes[waking.AT_ONCE - 1])
    assert lanes[-1].woken == 0
    lanes[0].end()
    assert await reached(lanes[-1]) < waking.SECONDS
    task.cancel()
