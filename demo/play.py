"""The play: sends records, kills the controller, waits for the end, and returns the evidence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import httpx

from controller.clients.cluster import STREAMS, Cluster
from demo import scenario
from demo.errors import DemoFailed
from demo.evidence import Crash, Evidence, gather, position, produce, read_topic, recorded_steps
from demo.screen import Screen
from demo.world import World
from devenv.environment import Environment

#: Seconds that each act may take.
ACT_SECONDS = 60.0
#: Seconds for which the controller stays dead.
DEAD_SECONDS = 0.5
POLL_SECONDS = 0.02
SETTLE_SECONDS = 15.0
#: Counts of the stream's status that are 0 when all is done.
UNFINISHED = ("queued", "running", "waiting", "held")


@dataclass(slots=True)
class Play:
    """The scenario on a running environment without earlier data."""

    environment: Environment
    screen: Screen
    world: World
    cluster: Cluster
    downstream: httpx.AsyncClient

    async def run(self) -> Evidence:
        """Play all acts. Raises DemoFailed, DevenvError, ApiError, httpx.HTTPError."""
        async with self.world.followed(self.cluster, self.downstream):
            await self._set_rules(busy=True)
            self.screen.start_clock()
            await self._first_users()
            total = await self._burst()
            crash = await self._kill_and_restart(total)
            await self._others(total)
            await self._waiting_user(total)
        records = await asyncio.to_thread(read_topic, self.environment.bootstrap_servers)
        await self._settled(records[-1].offset + 1)
        return await gather(self.cluster, self.downstream, records, crash)

    async def _first_users(self) -> None:
        records = scenario.first_records()
        await self._send(records)
        for record in records:
            self.screen.event(f"sent {record.key.decode()}: {record.value.decode()}")
        await self._until(lambda: self.world.done() == len(records), "the first two updates are done")
        self.screen.event(f"{' and '.join(scenario.FIRST_USERS)} are done")

    async def _burst(self) -> int:
        """Send the burst. Returns the number of updates that there will be in all."""
        burst = scenario.burst_records()
        await self._send(burst)
        users, bad = len(scenario.BURST_USERS), len(scenario.BAD_RECORDS)
        self.screen.event(
            f"sent {len(burst)} records: {scenario.EVENTS_EACH} events for each of {users} users, "
            f"{bad} bad ones in between"
        )
        return len(scenario.first_records()) + len(burst) - bad

    async def _kill_and_restart(self, total: int) -> Crash:
        await self._until(
            lambda: self.world.done() >= total / 2 and self.world.told_to_wait(scenario.BUSY_USER),
            f"half of {total} updates are done, and {scenario.BUSY_USER} is waiting",
        )
        done, stats = self.world.done(), (await self.downstream.get("/stats")).json()
        await asyncio.to_thread(self.environment.kill, "controller")
        killed = time.time_ns()
        self.screen.event(
            f"{done} of {total} updates done, {stats['inFlight']} calls under way: SIGKILL to the controller"
        )
        recorded = await recorded_steps(self.cluster)
        await asyncio.sleep(DEAD_SECONDS)
        starting = time.time_ns()
        await asyncio.to_thread(self.environment.start, "controller")
        self.screen.event("the controller runs again")
        return Crash(killed, starting, recorded)

    async def _others(self, total: int) -> None:
        waiting = scenario.EVENTS_EACH
        await self._until(
            lambda: self.world.done() == total - waiting and not self.world.done(scenario.BUSY_USER),
            f"all updates but those of {scenario.BUSY_USER} are done",
        )
        self.screen.event(f"{total - waiting} of {total} updates done: all but {scenario.BUSY_USER}'s, which wait")
        await self.kubectl("get", "uu", "--field-selector", "status.phase!=Succeeded")

    async def _waiting_user(self, total: int) -> None:
        await self._set_rules(busy=False)
        self.screen.event(f"the downstream is ready for {scenario.BUSY_USER}")
        await self._until(lambda: self.world.done() == total, f"all {total} updates are done")
        self.screen.event(f"all {total} updates done")

    async def _settled(self, end: int) -> None:
        """Wait for the stream's status, which comes a second or two late. The verdict says what it lacks in the end."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            stream = await self.cluster.get(STREAMS, scenario.NAMESPACE, scenario.STREAM)
            counts = (stream.get("status") or {}).get("counts") or {}
            if position(stream) == end and not any(counts.get(name) for name in UNFINISHED):
                return
            await asyncio.sleep(0.1)

    async def kubectl(self, *arguments: str) -> None:
        """Run it and show what it prints."""
        output = await asyncio.to_thread(self.environment.kubectl, *arguments)
        self.screen.command(" ".join(("kubectl", *arguments)), output)

    async def _send(self, records: Iterable[scenario.Record]) -> None:
        await asyncio.to_thread(produce, self.environment.bootstrap_servers, records)

    async def _set_rules(self, *, busy: bool) -> None:
        response = await self.downstream.put("/control/rules", json=scenario.rules(busy=busy))
        response.raise_for_status()

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + ACT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"after {ACT_SECONDS:g} s it is still not so that {what}: {self.world.done()} of "
                    f"{len(self.world.updates)} updates are done. The logs say why."
                )
            await asyncio.sleep(POLL_SECONDS)
