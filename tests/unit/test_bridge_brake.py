"""The pace of writes: full speed, then halved with each refusal, and back again."""

from __future__ import annotations

import asyncio

import pytest

from controller.bridge import brake as module
from controller.bridge.brake import Brake
from controller.errors import Unavailable


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(module, "MAX_DELAY", 0.002)


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


async def insist(brake: Brake, server: Server) -> None:
    while True:
        async with brake.turn():
            try:
                await server.write()
            except Unavailable as error:
                brake.failed(error)
            else:
                brake.worked()
                return


async def test_at_full_speed_all_are_under_way() -> None:
    brake, server = Brake(32), Server(32)
    await asyncio.gather(*(insist(brake, server) for _ in range(100)))
    assert (server.most, server.refused) == (32, 0)


async def test_a_server_with_room_for_one_is_not_run_down() -> None:
    """With a pause alone, 31 of 32 would be refused each time: thousands of refusals."""
    brake, server = Brake(32), Server(1)
    await asyncio.gather(*(insist(brake, server) for _ in range(400)))
    assert server.refused < 100


async def test_room_that_comes_back_is_used() -> None:
    brake, server = Brake(8), Server(1)
    await asyncio.gather(*(insist(brake, server) for _ in range(100)))
    server.room, server.most = 8, 0
    await asyncio.gather(*(insist(brake, server) for _ in range(500)))
    assert server.most == 8


async def test_what_is_cancelled_while_it_waits_leaves_its_turn_to_the_next() -> None:
    brake, entered, leave = Brake(1), asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with brake.turn():
            entered.set()
            await leave.wait()

    holder = asyncio.create_task(hold())
    await entered.wait()
    waiting = [asyncio.create_task(hold()) for _ in range(3)]
    await others_run()
    waiting[0].cancel()
    leave.set()
    await asyncio.wait_for(asyncio.gather(holder, *waiting[1:]), 5)
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
    await asyncio.wait_for(asyncio.gather(holder, last), 5)
