"""Restate, the peer that the idea comes from: its server and the same three steps in one of its SDKs."""

from __future__ import annotations

import json
import shutil
import string
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from devenv import probes
from devenv.errors import CommandFailed
from devenv.layout import HOST, is_free
from devenv.processes import Command
from tests.benchmarks.restate.install import HERE, install
from tests.benchmarks.stage import Stage, Topic

SERVER = "restate"
#: Where the server keeps all that it knows: gone after each run.
DATA = "restate-data"


class Restate:
    """A server and one service process, new for each run; the handler is the same in both languages."""

    def __init__(self, name: str, service: str, *, partitions: int) -> None:
        self.name = name
        self.processes: tuple[str, ...] = (SERVER, service)
        self._service = service
        self._partitions = partitions

    def start(self, stage: Stage, topic: Topic) -> None:
        folder = install()
        service = self._python(stage) if self._service == "restate-python" else self._javascript(stage, folder)
        server = self._server(stage, folder)
        for command in (service, server):
            stage.environment.processes.start(command)
        for command in (service, server):
            stage.environment.processes.wait_ready(command)
        admin = f"http://{HOST}:{stage.environment.ports.get('restate-admin')}"
        _post(f"{admin}/deployments", {"uri": service.url})
        source, sink = f"kafka://bench/{topic.name}", "service://UserUpdates/execute"
        options = {"auto.offset.reset": "earliest", "group.id": topic.name}
        _post(f"{admin}/subscriptions", {"source": source, "sink": sink, "options": options})

    def recorded(self, stage: Stage, topic: Topic, left: int) -> bool:
        """A step is journaled before the next one begins, the last one with the invocation's end."""
        return True

    def stop(self, stage: Stage) -> None:
        stage.kill(*self.processes)
        shutil.rmtree(stage.environment.layout.data / DATA, ignore_errors=True)

    def _server(self, stage: Stage, folder: Path) -> Command:
        ports = {name: stage.environment.ports.get(f"restate-{name}") for name in ("node", "admin", "ingress")}
        values = {f"{name.upper()}_PORT": str(port) for name, port in ports.items()} | {
            "DATA": str(stage.environment.layout.data / DATA),
            "PARTITIONS": str(self._partitions),
            "BROKERS": stage.environment.bootstrap_servers,
        }
        config = stage.environment.layout.etc / "restate.toml"
        config.write_text(string.Template((HERE / "server.toml").read_text()).substitute(values))
        binary = next((folder / "node_modules" / "@restatedev").glob("restate-server-*/bin/restate-server"))
        return Command(
            name=SERVER,
            argv=(str(binary), "--no-logo", "--config-file", str(config)),
            probe=probes.http(f"http://{HOST}:{ports['admin']}/health"),
            ports=tuple(ports.values()),
        )

    def _python(self, stage: Stage) -> Command:
        port = stage.environment.ports.get(self._service)
        options = ("--config", str(HERE / "hypercorn.toml"), "--bind", f"{HOST}:{port}")
        workers = ("--worker-class", "uvloop", "--workers", "0")  # none beside the process itself
        base = dict(stage.environment.replica("bridge", "bridge").environment)
        return Command(
            name=self._service,
            argv=(sys.executable, "-m", "hypercorn", *options, *workers, "tests.benchmarks.restate.service:app"),
            probe=probes.http(f"http://{HOST}:{port}/restate/health"),
            url=f"http://{HOST}:{port}",
            ports=(port,),
            environment=base | {"DOWNSTREAM_URL": stage.downstream_url},
        )

    def _javascript(self, stage: Stage, folder: Path) -> Command:
        port = stage.environment.ports.get(self._service)
        node = shutil.which("node")
        assert node, "`install` asks for it"
        return Command(
            name=self._service,
            argv=(node, str(folder / "service.mjs")),
            probe=lambda: f"nothing listens on {port}" if is_free(port) else None,
            url=f"http://{HOST}:{port}",
            ports=(port,),
            environment={"DOWNSTREAM_URL": stage.downstream_url, "PORT": str(port), "NODE_ENV": "production"},
        )


def _post(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as refused:
        with refused:
            raise CommandFailed(f"POST {url}: {refused.code} {refused.read(500).decode()}") from refused
