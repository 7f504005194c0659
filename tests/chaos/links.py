"""An environment whose parts reach each other through proxies, for the links that a run disturbs.

Kafka tells its clients where it is, so it gets a listener of its own that is known by the proxy's address.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace

from devenv import apiserver, broker
from devenv.environment import Environment
from devenv.layout import HOST, write_atomically
from devenv.processes import Command
from tests.chaos import named
from tests.chaos.nameserver import DOWNSTREAM, Nameserver
from tests.chaos.proxy import Proxy

_KAFKA, _ETCD, _NAMES = "bridge-kafka", "apiserver-etcd", "controller-names"
_PROXIED = "kafka-proxied"


class LinkedEnvironment(Environment):
    """The environment in a directory, as long as the proxies of `links` serve. Starting a part again links it."""

    def __init__(self, environment: Environment, links: Collection[str], *, webhooks: bool = False) -> None:
        """`webhooks`: the API server calls them, which the embedded one otherwise leaves out."""
        super().__init__(environment.layout.directory, progress=environment.progress)
        self.links = frozenset(links)
        self.webhooks = webhooks
        self.proxies = {link: self._proxy(link) for link in sorted(self.links)}

    def command(self, name: str) -> Command:
        """The usual one, but for the address of what it needs."""
        command = super().command(name)
        if name == "apiserver" and self.webhooks:
            command = replace(command, argv=tuple(arg for arg in command.argv if arg != apiserver.WITHOUT_WEBHOOKS))
        if name == "apiserver" and _ETCD in self.links:
            ports = (f"http://{HOST}:{self.ports.get('etcd')}", f"http://{HOST}:{self.port(_ETCD)}")
            return replace(command, argv=tuple(argument.replace(*ports) for argument in command.argv))
        if name.startswith("kafka") and _KAFKA in self.links:
            # A further broker is reached directly, by a listener of that name all the same.
            advertised = self.port(_KAFKA) if name == "kafka" else self.ports.get(f"{name}-proxied")
            return broker.with_listener(command, self.ports, "PROXIED", "PLAINTEXT", advertised)
        return command

    def linked_replica(self, role: str, name: str) -> Command:
        """A bridge or controller, by way of the proxy to the API server where there is one.

        SIGABRT has it write the stacks of its threads to its log.
        """
        command = self.replica(role, name)
        command = replace(command, environment={**command.environment, "PYTHONFAULTHANDLER": "1"})
        if role == "controller" and _NAMES in self.links:
            python, module, _, *options = command.argv
            argv = (python, module, named.__name__, *options)
            nameserver = {named.VARIABLE: f"{HOST}:{self.port(_NAMES)}"}
            command = replace(command, argv=argv, environment={**command.environment, **nameserver})
        link = f"{role}-apiserver"
        if link not in self.links:
            return command
        config = json.loads(self.account_kubeconfig(role).read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://{HOST}:{self.port(link)}"
        path = self.layout.directory / f"kubeconfig-{role}-proxied"
        write_atomically(path, json.dumps(config))
        path.chmod(0o600)
        return replace(command, environment={**command.environment, "KUBECONFIG": str(path)})

    @property
    def linked_kafka(self) -> str:
        """The broker as the bridges reach it."""
        return f"{HOST}:{self.port(_KAFKA)}" if _KAFKA in self.links else self.bootstrap_servers

    @property
    def linked_downstream(self) -> str:
        """The downstream as the controllers reach it."""
        link = "controller-downstream"
        port = self.port(link) if link in self.links else self.ports.get("downstream")
        return f"http://{DOWNSTREAM if _NAMES in self.links else HOST}:{port}"

    def port(self, link: str) -> int:
        """The port of a link's proxy."""
        return self.ports.get(f"proxy-{link}")

    def _proxy(self, link: str) -> Proxy | Nameserver:
        return Nameserver(link, HOST) if link == _NAMES else Proxy(link, HOST, self.ports.get(_server(link)))


def _server(link: str) -> str:
    """The port behind a link, by name."""
    return _PROXIED if link == _KAFKA else link.rpartition("-")[2]
