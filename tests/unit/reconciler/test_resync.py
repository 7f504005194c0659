"""All workers are woken: nobody waits for those that hang, and few begin at a time."""

from __future__ import annotations

import asyncio

from controller.reconciler import resync
from controller.reconciler.resync import Resync
from tests.support.eventually import Stopwatch, eventually_async


class Worker:
    """Begins its work when it is woken, and ends it when the test says so."""

    def __init__(self, *, running: bool = False, hangs: bool = False) -> None:
        self.woken = 0
        self.calling = hangs
        self._over = asyncio.Event()
        self._running = running

    @property
    def running(self) -> bool:
        return self._running

    def wake(self) -> None:
        self.woken += 1
        self._running = True

    async def drained(self) -> None:
        await self._over.wait()

    def end(self) -> None:
        self._over.set()


async def reached(worker: Worker, within: float = 10.0) -> float:
    """Seconds until it was woken."""
    watch = Stopwatch()

    async def there() -> bool:
        return worker.woken > 0

    await eventually_async(there, within, every=0.001)
    return watch.seconds


async def all_woken(workers: list[Worker]) -> asyncio.Task[None]:
    wake = Resync(lambda: workers)
    wake.request()
    return asyncio.create_task(wake.run())


async def test_nobody_waits_for_a_thousand_workers_that_were_busy_already() -> None:
    workers = [*(Worker(running=True, hangs=True) for _ in range(1000)), Worker()]
    task = await all_woken(workers)
    assert await reached(workers[-1]) < resync.SECONDS
    assert all(worker.woken == 1 for worker in workers), "these look again too"
    task.cancel()


async def test_nobody_waits_long_for_a_thousand_that_begin_and_hang() -> None:
    workers = [*(Worker(hangs=True) for _ in range(1000)), Worker()]
    task = await all_woken(workers)
    assert await reached(workers[-1]) < len(workers) / resync.AT_ONCE * resync.SECONDS / 2
    task.cancel()


async def test_those_that_work_begin_a_few_at_a_time() -> None:
    workers = [Worker() for _ in range(resync.AT_ONCE + 1)]
    task = await all_woken(workers)
    await reached(workers[resync.AT_ONCE - 1])
    assert workers[-1].woken == 0
    workers[0].end()
    assert await reached(workers[-1]) < resync.SECONDS
    task.cancel()
