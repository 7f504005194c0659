"""Starts, signals and stops the pods of bridge and controller by role, with the interface of `processes.Processes`.

The node sends a signal to the container's process from outside. So SIGKILL does what it does on any machine, and
kubelet starts the container again in the same pod, under the same name.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from typing import Any

from devenv.errors import CommandFailed, StartFailed
from devenv.kind import engine
from devenv.kubectl import Kubectl
from devenv.layout import Layout
from devenv.processes import TAIL_LINES, Command, Processes

NAMESPACE = "enrichment-system"
#: The object that owns the pods of each role.
WORKLOADS = {"bridge": "statefulset/bridge", "controller": "deployment/controller"}
POLL_SECONDS = 0.1
#: Seconds until the kubelet has reported that a container ended.
NOTICED_SECONDS = 20.0


class Pods(Processes):
    """The pods of both roles. `bridge`, `bridge-2` … all stand for every pod of that role: one Deployment."""

    def __init__(self, layout: Layout, cluster: str, kubectl: Callable[[], Kubectl]) -> None:
        """`kubectl` is asked for at the first use: finding one may take a build."""
        super().__init__(layout)
        self._cluster = cluster
        self._get_kubectl = kubectl
        #: The value of `_restarts` before a role was killed.
        self._killed: dict[str, list[tuple[int, bool]]] = {}

    @property
    def _kubectl(self) -> Kubectl:
        return self._get_kubectl()

    def start(self, command: Command) -> bool:
        """Start one replica, where there is none. A killed one comes back by itself; the API server shows it late."""
        before = self._killed.pop(_role(command.name), None)
        deadline = time.monotonic() + NOTICED_SECONDS
        while before is not None and self._restarts(command.name) == before and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if self.replicas(command.name):
            return False
        self.scale(command.name, 1)
        return True

    def wait_ready(self, command: Command) -> None:
        """Return when all its pods are ready. Raises StartFailed."""
        deadline = time.monotonic() + command.ready_within
        while not self.all_ready(command.name):
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"{command.name} is not ready after {command.ready_within:.0f} s.\n{self.tail(command.name)}"
                )
            time.sleep(POLL_SECONDS)

    def signal(self, name: str, number: signal.Signals) -> None:
        """To the first process of each of its running containers."""
        for pid in self._pids(name):
            self._send(pid, number.name.removeprefix("SIG"))

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until they are gone; kubelet starts others."""
        self._killed[_role(name)] = self._restarts(name)
        killed = self._pids(name)
        for pid in killed:
            self._send(pid, "KILL")
        while any(self._runs(pid) for pid in killed):
            time.sleep(POLL_SECONDS)

    def kill_pod(self, name: str, pod: str) -> int:
        """SIGKILL, and no kubelet that starts it again: as when its node is lost. When it was dead, in ns.

        It is frozen first: else it would get kubelet's SIGTERM, and end in good order.
        """
        killed = self._pids(name, pod)
        for pid in killed:
            self._send(pid, "STOP")
        self._kubectl("-n", NAMESPACE, "delete", "pod", pod, "--force", "--grace-period=0", "--wait=false")
        for pid in killed:
            with contextlib.suppress(CommandFailed):
                self._send(pid, "KILL")
        return time.time_ns()

    def stop(self, name: str, *, within: float = 30.0) -> None:
        """No replica; returns when the last one is gone."""
        self.scale(name, 0)
        deadline = time.monotonic() + within + 30
        while self.pods(name) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def tail(self, name: str, lines: int = TAIL_LINES) -> str:
        with contextlib.suppress(CommandFailed):
            return self._kubectl("-n", NAMESPACE, "logs", WORKLOADS[_role(name)], f"--tail={lines}")
        return f"(no log of {name})"

    def names(self) -> list[str]:
        return [role for role in WORKLOADS if self.replicas(role)]

    def scale(self, name: str, count: int) -> None:
        self._kubectl("-n", NAMESPACE, "scale", WORKLOADS[_role(name)], f"--replicas={count}")

    def restart(self, name: str) -> None:
        """A rolling restart, to its end."""
        workload = WORKLOADS[_role(name)]
        self._kubectl("-n", NAMESPACE, "rollout", "restart", workload)
        self._kubectl("-n", NAMESPACE, "rollout", "status", workload, "--timeout=180s", timeout=200)

    def replicas(self, name: str) -> int:
        """How many are wanted."""
        found = self._kubectl.json("-n", NAMESPACE, "get", WORKLOADS[_role(name)])
        return int(found["spec"]["replicas"])

    def pods(self, name: str) -> list[dict[str, Any]]:
        """The pods of a role."""
        selector = f"app.kubernetes.io/component={_role(name)}"
        found: list[dict[str, Any]] = self._kubectl.json("-n", NAMESPACE, "get", "pods", "-l", selector)["items"]
        return found

    def all_ready(self, name: str) -> bool:
        pods = self.pods(name)
        return len(pods) >= max(1, self.replicas(name)) and all(_ready(pod) for pod in pods)

    def _pids(self, name: str, pod: str = "") -> list[str]:
        """The pids of the containers' first processes, as the node counts them; of one pod where it is named."""
        only = ("--label", f"io.kubernetes.pod.name={pod}") if pod else ()
        found = engine.on_node(self._cluster, "crictl", "ps", "--quiet", "--name", f"^{_role(name)}$", *only).split()
        template = ("--output", "go-template", "--template", "{{.info.pid}}")
        return [engine.on_node(self._cluster, "crictl", "inspect", *template, each).strip() for each in found]

    def _send(self, pid: str, number: str) -> None:
        """By the shell: not every node has a command for it. Raises CommandFailed where there is no such process."""
        engine.on_node(self._cluster, "sh", "-c", f"kill -{number} {pid}")

    def _runs(self, pid: str) -> bool:
        with contextlib.suppress(CommandFailed):
            self._send(pid, "0")
            return True
        return False

    def _restarts(self, name: str) -> list[tuple[int, bool]]:
        """Restarts of each container so far, and whether it runs."""
        states = [state for pod in self.pods(name) for state in pod["status"].get("containerStatuses", ())]
        return [(state["restartCount"], "running" in state["state"]) for state in states]


def _role(name: str) -> str:
    return name.partition("-")[0]


def _ready(pod: dict[str, Any]) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    states = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
    return states.get("Ready") == "True"
