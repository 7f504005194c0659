"""One environment: its processes by name, and their addresses. `lifecycle` starts and stops it as a whole.

Tests and the demo kill, freeze and restart single processes by name: etcd, apiserver, kafka, downstream, bridge,
bridge-2, …, controller, controller-2, …; kafka-2, … are further brokers, which run only where a test starts them.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from devenv import apiserver, broker, probes, sources
from devenv.errors import DevenvError
from devenv.kubectl import Kubectl
from devenv.layout import HOST, ROOT, Layout, Ports, default_directory, read_json, write_atomically
from devenv.processes import Command, Processes

#: The parts that bridge and controller work with, in starting order.
INFRASTRUCTURE = ("etcd", "apiserver", "kafka", "downstream")
#: The command of `python -m controller` that each role runs.
ROLES = {"bridge": "bridge", "controller": "run"}


class Addresses(NamedTuple):
    """The addresses of Kafka and of the sample downstream (without a path)."""

    bootstrap_servers: str
    downstream_url: str


def replicas(role: str, count: int) -> list[str]:
    """Names of the replicas of a role: bridge, bridge-2, bridge-3, …"""
    return [role if number == 1 else f"{role}-{number}" for number in range(1, count + 1)]


@dataclass(slots=True)
class Wanted:
    """The processes that are to run, kept in a file: `up` without options brings back the replicas of the last time."""

    bridges: int = 1
    controllers: int = 1
    #: Whether kube-apiserver has the flags of `apiserver.TUNING`.
    tuned: bool = True
    #: Digest of the stream manifest that was applied last; None while the environment is new.
    applied: str | None = None
    #: Whether that was the sample.
    sample: bool = True


class Environment:
    """One environment in a directory of its own. All methods raise `errors.DevenvError`."""

    def __init__(self, directory: Path | None = None, *, progress: Callable[[str], None] = lambda line: None) -> None:
        self.layout = Layout((directory or default_directory()).absolute())
        self.ports = Ports(self.layout)
        self.processes = Processes(self.layout)
        self.progress = progress

    # What it is made of

    @cached_property
    def sources(self) -> sources.Sources:
        """The binaries, and what the person points to instead. Found or built at the first use."""
        return sources.resolve()

    @property
    def kubectl(self) -> Kubectl:
        """kubectl as administrator: `environment.kubectl("get", "uu")`."""
        return Kubectl(self.sources.kubectl, self.kubeconfig)

    def infrastructure(self) -> list[str]:
        """The infrastructure that runs here: not what the person points to instead."""
        absent = {"etcd", "apiserver"} if sources.existing_kubeconfig() else set()
        if sources.existing_bootstrap_servers():
            absent.add("kafka")
        return [name for name in INFRASTRUCTURE if name not in absent]

    def command(self, name: str) -> Command:
        """The command of the process of that name."""
        found = self.sources
        if name == "etcd" and found.etcd:
            return apiserver.etcd(found.etcd, self.layout, self.ports, tuned=self.wanted().tuned)
        if name == "apiserver" and found.apiserver:
            return apiserver.server(found.apiserver, self.layout, self.ports, tuned=self.wanted().tuned)
        if name == "kafka" and found.java and found.kafka_jars:
            return broker.kafka(found.java, found.kafka_jars, self.layout, self.ports)
        if name.startswith("kafka-") and found.java and found.kafka_jars:
            return broker.further(found.java, found.kafka_jars, self.layout, self.ports, name)
        if name == "downstream":
            return self._downstream()
        role = name.split("-")[0]
        if role in ROLES:
            return self.replica(role, name)
        raise DevenvError(f"no process of the name {name!r} runs in this environment")

    def replica(self, role: str, name: str, *options: str) -> Command:
        """A bridge or controller whose name and identity is `name`. `options` are added to its command line."""
        port = self.ports.get(name)
        url = f"http://{HOST}:{port}"
        identity = ("--identity", name, "--metrics-address", f"{HOST}:{port}")
        return Command(
            name=name,
            argv=(sys.executable, "-m", "controller", ROLES[role], *identity, *options),
            environment={**_PYTHON, "KUBECONFIG": str(self.account_kubeconfig(role))},
            probe=probes.http(f"{url}/readyz"),
            url=url,
            ports=(port,),
        )

    def _downstream(self) -> Command:
        data = self.layout.data / "downstream"
        argv = ("-m", "devenv.downstream", "--port", str(self.ports.get("downstream")), "--data", str(data))
        return Command(
            name="downstream",
            argv=(sys.executable, *argv),
            environment=_PYTHON,
            probe=probes.http(f"{self.downstream_url}/healthz"),
            url=self.downstream_url,
            ports=(self.ports.get("downstream"),),
        )

    # Where its parts are

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, namespace `default`."""
        return self.layout.kubeconfig

    def account_kubeconfig(self, account: str) -> Path:
        """The kubeconfig of the account `bridge` or `controller`."""
        return self.layout.account_kubeconfig(account)

    @property
    def bootstrap_servers(self) -> str:
        """Kafka's address."""
        return sources.existing_bootstrap_servers() or f"{HOST}:{self.ports.get('kafka')}"

    @property
    def downstream_url(self) -> str:
        """The sample downstream, without a path."""
        return f"http://{HOST}:{self.ports.get('downstream')}"

    @property
    def inside(self) -> Addresses:
        """The same addresses as bridge and controller reach them: what an UpdateStream must contain."""
        return Addresses(self.bootstrap_servers, self.downstream_url)

    def url(self, name: str) -> str:
        """The address of metrics and health of a bridge or controller, without a path."""
        return f"http://{HOST}:{self.ports.get(name)}"

    def variables(self) -> dict[str, str]:
        """The variables that `.dev/env` exports, except PATH."""
        wanted = self.wanted()
        servers = self.bootstrap_servers
        found = {
            "KUBECONFIG": str(self.kubeconfig),
            "KAFKA_BOOTSTRAP_SERVERS": servers,
            "DOWNSTREAM_URL": self.downstream_url,
        }
        if not sources.existing_bootstrap_servers():
            found["USERUPDATES_EMBEDDED_KAFKA"] = servers
        names = [*replicas("bridge", max(1, wanted.bridges)), *replicas("controller", max(1, wanted.controllers))]
        for name in names:
            found[f"METRICS_{name.upper().replace('-', '_')}_URL"] = self.url(name)  # metrics at / and /metrics
        return found

    def write_env(self) -> None:
        """Write `.dev/env`, to be sourced by a shell."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.variables().items()]
        lines.append(f'export PATH={shlex.quote(str(self.layout.bin))}:"$PATH"')
        write_atomically(self.layout.env, "\n".join(lines) + "\n")

    # What is to run

    def wanted(self) -> Wanted:
        """The processes that were to run last."""
        known = Wanted.__dataclass_fields__
        return Wanted(**{key: value for key, value in read_json(self.layout.state).items() if key in known})

    def remember(self, wanted: Wanted) -> None:
        """Keep what is to run."""
        self.layout.make()
        write_atomically(self.layout.state, json.dumps(asdict(wanted), indent=1) + "\n")

    # One process at a time

    def launch(self, name: str) -> bool:
        """Start it unless it runs, without waiting. Returns whether it was started."""
        java, jars = self.sources.java, self.sources.kafka_jars
        if name.startswith("kafka") and java and jars and self.processes.find(name) is None:
            if name == "kafka":
                broker.format_storage(java, jars, self.layout, self.ports)
            else:
                broker.format_further(java, jars, self.layout, self.ports, name)
        return self.processes.start(self.command(name))

    def wait_ready(self, name: str) -> None:
        """Wait until it is ready. Raises StartFailed, with the end of its log, where it ends or takes too long."""
        self.processes.wait_ready(self.command(name))
        if name == "apiserver":
            apiserver.publish_authority(self.layout)

    def start(self, name: str) -> bool:
        """Start it unless it runs, and wait until it is ready. Returns whether it was started."""
        started = self.launch(name)
        self.wait_ready(name)
        return started

    def stop(self, name: str) -> None:
        """Send SIGTERM, and after a while SIGKILL."""
        self.processes.stop(name)

    def kill(self, name: str) -> None:
        """Send SIGKILL, and wait until it is gone."""
        self.processes.kill(name)

    def restart(self, name: str) -> None:
        """Stop it and start it again on the same ports and data."""
        self.stop(name)
        self.start(name)

    def rotate_authority(self) -> None:
        """Kill kube-apiserver and start it with another certificate and authority, which the kubeconfigs name then."""
        self.kill("apiserver")
        apiserver.forget_certificate(self.layout)
        self.start("apiserver")

    def freeze(self, name: str) -> None:
        """SIGSTOP."""
        self.processes.signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self.processes.signal(name, signal.SIGCONT)

    def running(self, name: str) -> bool:
        """Whether it runs (frozen counts)."""
        return self.processes.find(name) is not None


#: The code of this checkout, whatever the working directory holds; log lines at once.
_PYTHON = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
}
