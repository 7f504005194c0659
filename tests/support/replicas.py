"""Bridges and controllers of a test: the real processes, with an identity, an account and a log of their own."""

from __future__ import annotations

import asyncio
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from devenv.environment import Environment
from devenv.kind.cluster import KindEnvironment
from devenv.layout import HOST
from devenv.processes import Command
from tests.chaos.links import LinkedEnvironment
from tests.chaos.nameserver import Nameserver
from tests.chaos.proxy import Proxy


@dataclass(frozen=True, slots=True)
class Replica:
    """One bridge or controller process; it can be started again under the same identity."""

    environment: Environment
    command: Command

    @property
    def name(self) -> str:
        return self.command.name

    @property
    def log(self) -> Path:
        return self.environment.layout.log(self.name)

    @property
    def running(self) -> bool:
        return self.environment.running(self.name)

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        process = self.environment.processes.find(self.name)
        assert process is not None, f"{self.name} does not run\n{self.environment.processes.tail(self.name)}"
        return int(process.pid)

    def start(self, *, wait: bool = True) -> None:
        """Start it unless it runs; by default wait until it is ready."""
        self.environment.processes.start(self.command)
        if wait:
            self.wait_ready()

    def start_with_failpoint(self, failpoint: str) -> None:
        """Start it with this failpoint active, at which it kills itself: see controller.failpoints."""
        environment = {**self.command.environment, "USERUPDATES_FAILPOINT": failpoint}
        Replica(self.environment, replace(self.command, environment=environment)).start(wait=False)

    def wait_ready(self) -> None:
        self.environment.processes.wait_ready(self.command)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.environment.kill(self.name)

    def end(self) -> None:
        """At the end of a test: gone, unless it is a pod, which serves the next test too."""
        if isinstance(self.environment, KindEnvironment):
            self.start()
        else:
            self.kill()

    def stop(self) -> None:
        """SIGTERM; returns when it is gone."""
        self.environment.stop(self.name)

    def freeze(self) -> None:
        self.environment.processes.signal(self.name, signal.SIGSTOP)

    def thaw(self) -> None:
        self.environment.processes.signal(self.name, signal.SIGCONT)

    def metrics(self) -> str:
        """What /metrics answers now."""
        with urllib.request.urlopen(f"{self.command.url}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def tail(self) -> str:
        """The end of its log."""
        return self.environment.processes.tail(self.name, lines=60)


class Link:
    """The one way of a replica to something: a proxy, or the nameserver that it asks, in a thread of its own."""

    def __init__(self, proxy: Proxy | Nameserver, loop: asyncio.AbstractEventLoop) -> None:
        self._proxy = proxy
        self._loop = loop

    def hold(self, held: bool = True) -> None:
        """Let nothing pass any more in either direction, nor tell anybody; or let it pass again."""
        self._loop.call_soon_threadsafe(setattr, self._proxy, "stalled", held)


def cut_off(environment: Environment, role: str, name: str) -> AbstractContextManager[tuple[Replica, Link]]:
    """A replica, not yet started, that reaches the API server by a link of its own; killed at the end."""
    return linked_by(f"{role}-apiserver", environment, role, name)


@contextmanager
def linked_by(link: str, environment: Environment, role: str, name: str) -> Iterator[tuple[Replica, Link]]:
    """The same for any link: `controller-names` is the nameserver that it asks."""
    linked = LinkedEnvironment(environment, {link})
    loop, proxy = asyncio.new_event_loop(), linked.proxies[link]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    serving = proxy.serving(HOST, linked.port(link))
    replica = Replica(environment, linked.linked_replica(role, name))
    try:
        asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(60)
        yield replica, Link(proxy, loop)
    finally:
        replica.kill()
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
