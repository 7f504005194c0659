"""The processes and links of a run, and how each fault is done to them and undone."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from devenv.environment import INFRASTRUCTURE
from devenv.errors import StartFailed
from devenv.layout import HOST
from devenv.processes import Command
from tests.chaos.history import Disturbance
from tests.chaos.links import LinkedEnvironment
from tests.chaos.nameserver import Nameserver
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import Fault, Kind

#: Seconds that pass in one direction of a link are longer by this while it is delayed.
_DELAY_SECONDS = 0.15


class Stage:
    """A running environment with replicas of its own, behind proxies."""

    def __init__(
        self,
        environment: LinkedEnvironment,
        bridges: Iterable[str],
        controllers: Iterable[str],
        brokers: Iterable[str] = (),
    ) -> None:
        """`brokers`: further ones, started and ended here."""
        self.environment = environment
        self.brokers = tuple(brokers)
        self.replicas: dict[str, tuple[str, ...]] = {"bridge": tuple(bridges), "controller": tuple(controllers)}
        self.disturbances: list[Disturbance] = []
        #: Bridges and controllers that ended without being killed, in words.
        self.exits: list[str] = []
        self.proxies = environment.proxies
        self._busy: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def set(self) -> AsyncIterator[None]:
        """Proxies up and replicas started; all of them gone afterwards, the environment's own parts running."""
        async with AsyncExitStack() as stack:
            for link, proxy in self.proxies.items():
                await stack.enter_async_context(proxy.serving(HOST, self.environment.port(link)))
            for name in self._parts:
                await self._in_thread(self.environment.start, name)
            try:
                for name in self._names:
                    await self._in_thread(self.environment.processes.start, self._command(name))
                for name in self._names:
                    await self._in_thread(self.environment.processes.wait_ready, self._command(name))
                yield
            finally:
                for name in (*self._names, *self.brokers):
                    await self._in_thread(self.environment.kill, name)

    async def disturb(self, fault: Fault) -> None:
        """Do it, wait, undo it, and note when that was. Raises DevenvError where a part does not come back."""
        target = "apiserver" if fault.kind is Kind.ROTATE else fault.target
        async with self._busy.setdefault(target, asyncio.Lock()):
            start = time.time_ns()
            if fault.kind is Kind.ROTATE:
                await self._in_thread(self.environment.rotate_authority)
            elif fault.target in self.proxies:
                await self._disturb_link(self.proxies[fault.target], fault)
            elif fault.kind is Kind.KILL:
                await self._kill(fault)
            else:
                self._signal(fault.target, signal.SIGSTOP)
                try:
                    await asyncio.sleep(fault.seconds)
                finally:
                    self._signal(fault.target, signal.SIGCONT)
            self.disturbances.append(Disturbance(fault.kind, fault.target, start, time.time_ns()))

    async def calm(self) -> None:
        """Everything runs, nothing is frozen, stalled or cut. A replica that hangs is noted and restarted."""
        for proxy in self.proxies.values():
            proxy.refusing, proxy.stalled, proxy.delay = False, False, 0.0
        for name in (*INFRASTRUCTURE, *self._names):
            self._signal(name, signal.SIGCONT)
        for name in self._parts:
            await self._in_thread(self.environment.start, name)
        for name in self._names:
            self._check_alive(name)
            await self._in_thread(self.environment.processes.start, self._command(name))
        for name in self._names:
            await self._wait_ready(name)

    @property
    def unused(self) -> list[str]:
        """Links by which nobody has connected: whatever was done to them was done to nobody."""
        return [link for link, proxy in self.proxies.items() if not proxy.connections]

    def check_alive(self) -> None:
        """Note the replicas that have ended."""
        for name in self._names:
            self._check_alive(name)

    async def _wait_ready(self, name: str) -> None:
        try:
            await self._in_thread(self.environment.processes.wait_ready, self._command(name))
        except StartFailed as failed:
            self.exits.append(str(failed))
            self._signal(name, signal.SIGABRT)  # its stacks, for the log
            await asyncio.sleep(1.0)
            await self._in_thread(self.environment.processes.start, self._command(name))

    @property
    def _parts(self) -> list[str]:
        """What bridges and controllers work with."""
        return [*self.environment.infrastructure(), *self.brokers]

    def _check_alive(self, name: str) -> None:
        if name not in self._parts and not self.environment.running(name):
            self.exits.append(f"{name} had ended by itself\n{self.environment.processes.tail(name, lines=5)}")

    def logs(self) -> Path:
        """Where the logs of all processes are."""
        return self.environment.layout.run

    @property
    def _names(self) -> list[str]:
        return [name for names in self.replicas.values() for name in names]

    async def _kill(self, fault: Fault) -> None:
        self._check_alive(fault.target)
        await self._in_thread(self.environment.kill, fault.target)
        await asyncio.sleep(fault.seconds)
        if fault.target in self._parts:
            await self._in_thread(self.environment.start, fault.target)
        else:
            await self._in_thread(self.environment.processes.start, self._command(fault.target))

    async def _disturb_link(self, proxy: Proxy | Nameserver, fault: Fault) -> None:
        proxy.refusing = fault.kind is Kind.CUT
        proxy.stalled = fault.kind is Kind.STALL
        proxy.delay = _DELAY_SECONDS if fault.kind is Kind.DELAY else 0.0
        if fault.kind is Kind.CUT:
            proxy.cut()
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            proxy.refusing, proxy.stalled, proxy.delay = False, False, 0.0

    def _signal(self, name: str, number: signal.Signals) -> None:
        self.environment.processes.signal(name, number)

    def _command(self, name: str) -> Command:
        return self.environment.linked_replica(name.split("-")[0], name)

    async def _in_thread(self, call: Callable[..., object], *arguments: object) -> None:
        await asyncio.to_thread(call, *arguments)
