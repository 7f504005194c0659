"""The pace of writes: full speed, then halved with each refusal, and back again."""

from __future__ import annotations

import asyncio
import time

import pytest

from controller.bridge import write_limiter as module
from controller.bridge.write_limiter import WriteLimiter
from controller.errors import ApiError, Forbidden, Unavailable
from tests.support.eventually import Stopwatch


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(module, "MAX_DELAY", 0.002)
    monkeypatch.setattr(module, "REFUSED_DELAY", 0.0005)


async def others_run() -> None:
    """One turn of the loop."""
    passed = asyncio.Event()
    asyncio.get_running_loop().call_soon(passed.set)
    await passed.wait()


class Server:
    """Takes so many writes at a time and refuses those beside them."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.under_way = 0
        self.most = 0
        self.refused = 0

    async def write(self) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if self.under_way > self.room:
                raise Unavailable("too many requests")
            await others_run()
        except Unavailable:
            self.refused += 1
            raise
        finally:
            self.under_way -= 1


async def insist(limiter: WriteLimiter, server: Server) -> None:
    """One write, tried until it works, each time when it is to be tried."""
    again = asyncio.Event()
    key = object()
    while True:
        async with limiter.turn():
            try:
                await server.write()
            except Unavailable as error:
                asyncio.get_running_loop().call_later(limiter.failed(key, error, "a write"), again.set)
            else:
                limiter.succeeded(key)
                return
        await again.wait()
        again.clear()


async def test_at_full_speed_all_are_under_way() -> None:
    limiter, server = WriteLimiter(32), Server(32)
    await asyncio.gather(*(insist(limiter, server) for _ in range(100)))
    assert (server.most, server.refused) == (32, 0)


async def test_a_server_with_room_for_one_is_not_run_down() -> None:
    """With a pause alone, 31 of 32 would be refused each time: thousands of refusals."""
    limiter, server = WriteLimiter(32), Server(1)
    await asyncio.gather(*(insist(limiter, server) for _ in range(400)))
    assert server.refused < 100


async def test_room_that_comes_back_is_used() -> None:
    limiter, server = WriteLimiter(8), Server(1)
    await asyncio.gather(*(insist(limiter, server) for _ in range(100)))
    server.room, server.most = 8, 0
    await asyncio.gather(*(insist(limiter, server) for _ in range(500)))
    assert server.most == 8


async def test_what_is_cancelled_while_it_waits_leaves_its_turn_to_the_next() -> None:
    limiter, entered, leave = WriteLimiter(1), asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with limiter.turn():
            entered.set()
            await leave.wait()

    holder = asyncio.create_task(hold())
    await entered.wait()
    waiting = [asyncio.create_task(hold()) for _ in range(3)]
    await others_run()
    waiting[0].cancel()
    leave.set()
    await asyncio.wait_for(asyncio.gather(holder, *waiting[1:]), 60)
    # One that was handed its turn and cancelled at once hands it on.
    leave.clear()
    entered.clear()
    holder = asyncio.create_task(hold())
    await entered.wait()
    late, last = asyncio.create_task(hold()), asyncio.create_task(hold())
    await others_run()
    leave.set()
    await others_run()
    late.cancel()
    await asyncio.wait_for(asyncio.gather(holder, last), 60)


REFUSED = Forbidden("not this one", status=403)
TROUBLE = Unavailable("broken", status=500)


async def refused(limiter: WriteLimiter, key: str, error: ApiError = REFUSED) -> float:
    """One attempt that is refused: seconds until the next one."""
    async with limiter.turn():
        return limiter.failed(key, error, f"the write {key}")


async def works(limiter: WriteLimiter, key: str) -> list[object]:
    async with limiter.turn():
        return list(limiter.succeeded(key))


@pytest.mark.parametrize("error", [REFUSED, TROUBLE], ids=["403", "500"])
async def test_what_is_refused_for_what_is_in_it_slows_nothing_but_itself(error: ApiError) -> None:
    limiter = WriteLimiter(32)
    delays = []
    for number in range(40):
        await works(limiter, f"good-{number}")
        delays.append(await refused(limiter, "bad", error))
    assert 30 <= max(delays) <= 33
    # By now the others are not delayed by it, whether any of them has worked since or not.
    for good in ("good", None):
        if good:
            await works(limiter, good)
        before = limiter._until, limiter._window
        await refused(limiter, "bad", error)
        assert (limiter._until, limiter._window) == before
        assert limiter.failing_for() == 0
    assert limiter.oldest is not None and limiter.oldest.what == "the write bad"


async def test_a_crowd_that_is_refused_lets_an_other_one_through() -> None:
    """Thousands are refused for what is in them, each tried for the first time; what comes behind them works soon."""
    limiter = WriteLimiter(32)
    tries = [asyncio.create_task(refused(limiter, f"bad-{number}")) for number in range(1000)]
    watch = Stopwatch()
    assert len(await asyncio.wait_for(works(limiter, "good"), 60)) == module.WOKEN
    assert watch.seconds < 10
    await asyncio.wait(tries)
    assert limiter.refused == 1000
    assert limiter._window == 32, "they take no place from others"


async def test_where_nothing_works_it_is_asked_more_slowly() -> None:
    limiter, began = WriteLimiter(32), time.monotonic()
    await asyncio.gather(*(refused(limiter, f"bad-{number}") for number in range(200)))
    assert time.monotonic() - began > (200 - 32) * module.REFUSED_DELAY
    assert limiter.failing_for() > 0


async def test_of_many_that_are_refused_each_is_tried_less_often() -> None:
    limiter = WriteLimiter(2000)
    limiter._until = float("inf")  # all at the same time
    delays = [limiter.failed(number, REFUSED, "a write") for _ in range(20) for number in range(1000)]
    a_second = 1000 / (sum(delays[-1000:]) / 1000)
    assert a_second <= module.TRIES_A_SECOND


async def test_what_works_lets_two_of_the_others_try_at_once() -> None:
    limiter = WriteLimiter(32)
    for number in range(5):
        await refused(limiter, f"same-{number}")
    assert await works(limiter, "same-0") == ["same-1", "same-2"]
    # One that is refused again although another one worked is not tried at once.
    await refused(limiter, "same-1")
    assert await works(limiter, "same-2") == ["same-3", "same-4"]
    assert await works(limiter, "good") == []
    assert limiter.oldest is not None and limiter.oldest.what == "the write same-1"


async def test_nothing_fails_when_nobody_has_anything_left_to_write() -> None:
    """Their partitions are another replica's: their refusals must not count as an outage any more."""
    limiter = WriteLimiter(8)
    await refused(limiter, "one")
    await refused(limiter, "two")
    limiter.forget("one")
    assert limiter.failing_for() > 0
    limiter.forget("two")
    assert limiter.failing_for() == 0
    assert limiter.oldest is None
    # Nor where all that is left is refused for reasons of its own.
    await refused(limiter, "own")
    await works(limiter, "good")
    await refused(limiter, "own")
    await refused(limiter, "three")
    assert limiter.failing_for() > 0
    limiter.forget("three")
    assert limiter.failing_for() == 0
    await refused(limiter, "three")
    limiter.keep([])
    assert limiter.failing_for() == 0
