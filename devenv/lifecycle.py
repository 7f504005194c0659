"""Bring an environment up and down as a whole: `up`, `down`, `clean`, `status`.

Each can be interrupted at any point and run again: what is to run, ports and data are on disk before they are needed.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from devenv import apiserver, broker, kafka_tools, kubectl, sources
from devenv.environment import INFRASTRUCTURE, ROLES, Environment, Wanted, replicas
from devenv.errors import CommandFailed
from devenv.layout import locked, write_atomically

#: Seconds for which `up` waits until streams say that they are ready, or why they are not.
STREAM_SECONDS = 20.0
STREAM_POLL_SECONDS = 0.2
_BUSY = "starts or stops this environment"


def up(
    environment: Environment,
    *,
    bridges: int | None = None,
    controllers: int | None = None,
    stream: Path | None = None,
    tuned: bool | None = None,
) -> None:
    """Start what is not running and return when everything is ready.

    None keeps what was asked for before. `stream` is applied instead of the sample. Raises DevenvError.
    """
    environment.layout.make()
    with locked(environment.layout.directory / "lock", what=_BUSY):
        manifest = None if stream is None else kubectl.render_stream(stream, _values(environment))
        wanted = environment.wanted()
        wanted.bridges = wanted.bridges if bridges is None else bridges
        wanted.controllers = wanted.controllers if controllers is None else controllers
        wanted.tuned = wanted.tuned if tuned is None else tuned
        environment.remember(wanted)
        _stop_surplus(environment, wanted)
        _start_infrastructure(environment)
        kubectl.install_policies(environment.kubectl)
        if stream is not None and manifest is not None:
            environment.progress(kubectl.apply(environment.kubectl, stream, manifest))
            wanted.applied, wanted.sample = _digest(manifest), False
            environment.remember(wanted)
        else:
            _apply_sample(environment, wanted)
        _start(environment, _replicas(wanted))


def streams_ready(environment: Environment) -> tuple[list[str], bool]:
    """A line for each UpdateStream, once all are Ready or say why not, at the latest after STREAM_SECONDS; all are."""
    until = time.monotonic() + STREAM_SECONDS
    while True:
        found = environment.kubectl.json("get", "updatestreams", "--all-namespaces")["items"]
        conditions = {_full_name(body): _ready_condition(body) for body in found}
        told = all(condition.get("status") in ("True", "False") for condition in conditions.values())
        if told or time.monotonic() > until:
            lines = [f"{'stream':<13} {name}: {_said(condition)}" for name, condition in conditions.items()]
            return lines, all(condition.get("status") == "True" for condition in conditions.values())
        time.sleep(STREAM_POLL_SECONDS)


def _full_name(body: Mapping[str, Any]) -> str:
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"


def _ready_condition(body: Mapping[str, Any]) -> dict[str, str]:
    conditions = (body.get("status") or {}).get("conditions") or ()
    return next((entry for entry in conditions if entry["type"] == "Ready"), {})


def _said(condition: Mapping[str, str]) -> str:
    if condition.get("status") == "True":
        return "ready"
    return f"not ready, {condition.get('reason', 'Pending')}: {condition.get('message', 'no condition yet')}"


def nobody_reads(environment: Environment, topic: str) -> bool:
    """Whether the API server answers, and has no UpdateStream of that topic."""
    kubectl_here = kubectl.Kubectl(environment.layout.bin / "kubectl", environment.kubeconfig)
    try:
        found = kubectl_here.json("get", "updatestreams", "--all-namespaces", "--request-timeout=5s")["items"]
    except CommandFailed:
        return False
    return all(body["spec"]["kafka"]["topic"] != topic for body in found)


def up_infrastructure(environment: Environment, *, tuned: bool | None = None) -> None:
    """etcd, kube-apiserver with CRDs and accounts, Kafka and the sample downstream; no bridge, controller or stream."""
    environment.layout.make()
    with locked(environment.layout.directory / "lock", what=_BUSY):
        wanted = environment.wanted()
        wanted.bridges = wanted.controllers = 0
        wanted.tuned = wanted.tuned if tuned is None else tuned
        environment.remember(wanted)
        _start_infrastructure(environment)


def down(environment: Environment) -> list[str]:
    """Stop everything, last started first; ports and data stay. The names that were stopped."""
    if not environment.layout.directory.exists():
        return []
    with locked(environment.layout.directory / "lock", what=_BUSY):
        return _stop_all(environment)


def clean(environment: Environment) -> None:
    """Stop everything and remove ports, data and logs."""
    layout = environment.layout
    if not layout.directory.exists():
        return
    with locked(layout.directory / "lock", what=_BUSY):
        _stop_all(environment)
        for path in (layout.run, layout.data, layout.etc, layout.bin):
            shutil.rmtree(path, ignore_errors=True)
        for path in (layout.env, layout.ports, layout.state, *layout.directory.glob("kubeconfig*")):
            path.unlink(missing_ok=True)


def status(environment: Environment) -> list[tuple[str, str, str, str]]:
    """(name, state, pid, log) for each process that is to run or has run."""
    wanted = environment.wanted()
    names = [*environment.infrastructure(), *_replicas(wanted)]
    names += [name for name in environment.processes.names() if name not in names]
    rows = []
    for name in names:
        process = environment.processes.find(name)
        state = "running" if process is not None else "not running"
        rows.append((name, state, str(process.pid) if process else "-", str(environment.layout.log(name))))
    return rows


def _values(environment: Environment) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": environment.inside.bootstrap_servers,
        "DOWNSTREAM_URL": environment.inside.downstream_url,
    }


def _replicas(wanted: Wanted) -> list[str]:
    return [*replicas("bridge", wanted.bridges), *replicas("controller", wanted.controllers)]


def _stop_surplus(environment: Environment, wanted: Wanted) -> None:
    for name in environment.processes.names():
        if name.split("-")[0] in ROLES and name not in _replicas(wanted):
            environment.stop(name)
            environment.progress(f"{name:<13} stopped")


def _stop_all(environment: Environment) -> list[str]:
    processes = environment.processes
    environment.layout.make()
    processes.recover()
    names = [name for name in processes.names() if processes.find(name) is not None]
    together = [name for name in names if name.split("-")[0] in ROLES]
    for name in together:
        processes.signal(name, signal.SIGTERM)
    order = [*together, *(name for name in reversed(INFRASTRUCTURE) if name in names)]
    for name in order:
        environment.stop(name)
        environment.progress(f"{name:<13} stopped")
    wanted = environment.wanted()
    environment.remember(Wanted(tuned=wanted.tuned, applied=wanted.applied, sample=wanted.sample))
    return order


def _start_infrastructure(environment: Environment) -> None:
    """The starts of API server and Kafka overlap: each has phases in which it only waits."""
    if servers := sources.existing_bootstrap_servers():
        broker.check(servers)  # before anything is started that would be of no use
    names = environment.infrastructure()
    layout = environment.layout
    started = {}
    if "etcd" in names:
        apiserver.account_tokens(layout)
        apiserver.write_kubeconfigs(layout, environment.ports)
        started["etcd"] = environment.launch("etcd")
        _report_ready(environment, "etcd", started)
        started["apiserver"] = environment.launch("apiserver")
    else:
        _use_existing_cluster(environment)
    for name in names:
        if name not in started:
            started[name] = environment.launch(name)
    environment.write_env()
    _link_kubectl(environment)
    _install_kafka_tools(environment)
    if "apiserver" in started:
        _report_ready(environment, "apiserver", started)
    kubectl.install(environment.kubectl)
    if environment.sources.existing_kubeconfig:
        _use_service_accounts(environment)
    for name in names:
        if name not in ("etcd", "apiserver"):
            _report_ready(environment, name, started)


def _start(environment: Environment, names: Sequence[str]) -> None:
    started = {name: environment.launch(name) for name in names}
    for name in names:
        _report_ready(environment, name, started)


def _report_ready(environment: Environment, name: str, started: Mapping[str, bool]) -> None:
    environment.wait_ready(name)
    word = "started" if started[name] else "running"
    environment.progress(f"{name:<13} {word}  {environment.command(name).url}")


def _apply_sample(environment: Environment, wanted: Wanted) -> None:
    """Once for a new environment, and again when its addresses changed: what a person changed or deleted stays so."""
    manifest = kubectl.render(kubectl.SAMPLE_STREAM, _values(environment))
    if wanted.applied is not None and (not wanted.sample or wanted.applied == _digest(manifest)):
        return
    broker.create_topic(environment.bootstrap_servers, broker.TOPIC)
    environment.progress(kubectl.apply(environment.kubectl, kubectl.SAMPLE_STREAM, manifest))
    wanted.applied, wanted.sample = _digest(manifest), True
    environment.remember(wanted)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _link_kubectl(environment: Environment) -> None:
    """`.dev/bin/kubectl`, for the PATH of `.dev/env`."""
    link = environment.layout.bin / "kubectl"
    temporary = link.with_name(".kubectl.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(environment.sources.kubectl)
    temporary.replace(link)


def _install_kafka_tools(environment: Environment) -> None:
    """`.dev/bin/kafka-topics.sh` and so on, where the embedded Kafka has the jars for them."""
    found = environment.sources
    if found.java and found.kafka_jars:
        kafka_tools.install(found.java, found.kafka_jars, environment.layout.bin)


def _use_existing_cluster(environment: Environment) -> None:
    """The administrator's kubeconfig: the person's own, as one file, namespace `default`."""
    given = environment.sources.existing_kubeconfig
    assert given is not None
    theirs = kubectl.Kubectl(environment.sources.kubectl, given)
    write_atomically(environment.kubeconfig, theirs("config", "view", "--raw", "--flatten", "--minify"))
    environment.kubeconfig.chmod(0o600)
    environment.kubectl("config", "set-context", "--current", "--namespace=default")


def _use_service_accounts(environment: Environment) -> None:
    """Kubeconfigs of the two accounts in the person's own cluster, with tokens that it issues for a day."""
    config = environment.kubectl.json("config", "view", "--raw", "--flatten", "--minify")
    for account in apiserver.ACCOUNTS:
        token = environment.kubectl("-n", apiserver.NAMESPACE, "create", "token", account, "--duration=24h").strip()
        path = environment.account_kubeconfig(account)
        apiserver.write_kubeconfig(path, config["clusters"][0]["cluster"], token)
