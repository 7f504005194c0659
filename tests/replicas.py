"""Bridges and controllers of a test: the real processes, with an identity, an account and a log of their own."""

from __future__ import annotations

import signal
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from controller.devenv.environment import Environment
from controller.devenv.kind.cluster import KindEnvironment
from controller.devenv.processes import Command


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
        with urllib.request.urlopen(f"{self.command.url}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def tail(self) -> str:
        """The end of its log."""
        return self.environment.processes.tail(self.name, lines=60)
