"""The controller's view of the API server is stale, answers are lost, its connection is cut: it recovers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import httpx
import pytest

from controller import errors
from controller.api import names
from controller.clients.cluster import UPDATES, Cluster, Resource
from devenv.environment import Environment
from devenv.layout import HOST
from tests.chaos.proxy import Proxy
from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream, all_steps, both_checkpoints, steps
from tests.support.eventually import eventually
from tests.support.replicas import Replica


@dataclass(frozen=True, slots=True)
class Link:
    """A proxy on a thread of its own, between a controller and the API server."""

    proxy: Proxy
    loop: asyncio.AbstractEventLoop

    def tell(self, act: Callable[[Proxy], None]) -> None:
        self.loop.call_soon_threadsafe(act, self.proxy)


@pytest.fixture
def link(environment: Environment, unused_tcp_port: int) -> Iterator[Link]:
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    proxy, ready = Proxy("apiserver", HOST, environment.ports.get("apiserver")), threading.Event()

    async def serve() -> None:
        async with proxy.serving(HOST, unused_tcp_port):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(5)
    yield Link(proxy, loop)
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


@pytest.fixture
def linked(environment: Environment, start_controller: StartReplica, link: Link, unused_tcp_port: int) -> Replica:
    """A controller that reaches the API server only through the proxy."""
    config = json.loads(environment.account_kubeconfig("controller").read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://{HOST}:{unused_tcp_port}"
    path = environment.layout.directory / "kubeconfig-linked"
    path.write_text(json.dumps(config))
    replica = start_controller("controller-linked", wait=False)
    replica.kill()
    variables = {**replica.command.environment, "KUBECONFIG": str(path)}
    through = Replica(environment, replace(replica.command, environment=variables))
    through.start()
    return through


def cut(proxy: Proxy) -> None:
    proxy.cut()


def slow_down(proxy: Proxy) -> None:
    proxy.delay = 0.6


def speed_up(proxy: Proxy) -> None:
    proxy.delay = 0.0


def stall(proxy: Proxy) -> None:
    proxy.stalled = True


def heal(proxy: Proxy) -> None:
    proxy.cut()
    proxy.stalled = False


@both_checkpoints
@pytest.mark.usefixtures("linked")
def test_a_checkpoint_whose_answer_was_lost_is_not_made_twice(stream: ControllerStream, link: Link) -> None:
    stream.rules({"step": "profile", "action": "slow", "seconds": 1})
    stream.apply()
    name = stream.add()
    stream.called(1)
    link.tell(slow_down)
    # The answer to this write is on its way for another 0.6 s: it never arrives.
    eventually(lambda: len(stream.status(name).get("steps", ())) >= 1, every=0.02)
    link.tell(cut)
    link.tell(speed_up)
    status = stream.until(name, "Succeeded")
    assert steps(stream.calls()) == all_steps("ana", 1)
    assert [step["attempts"] for step in status["steps"]] == [1, 1, 1]


@both_checkpoints
@pytest.mark.usefixtures("linked")
def test_a_busy_answer_whose_write_was_not_acknowledged_counts_once(stream: ControllerStream, link: Link) -> None:
    stream.rules({"step": "profile", "action": "busy", "count": 1})
    stream.apply(every={"busyDelaySeconds": 4}, suspend={"processing": True})
    name = stream.add()
    stream.until(name, "Waiting", "StreamSuspended")
    stream.change(suspend={"processing": False})
    stream.called(1)
    link.tell(slow_down)
    eventually(lambda: stream.status(name).get("busyCount") == 1, every=0.02)
    link.tell(cut)
    link.tell(speed_up)
    stream.until(name, "Succeeded")
    assert len(stream.calls()) == 4
    assert stream.violations(busy_delay=4) == []


def test_what_changed_while_the_lease_had_lapsed_is_seen(stream: ControllerStream, linked: Replica, link: Link) -> None:
    stream.rules({"step": "profile", "action": "busy", "count": 1}, {"user": "never", "action": "reject"})
    stream.apply(every={"busyDelaySeconds": 14})
    suspended, deleted = stream.add("suspended", 1), stream.add("never", 1)
    stream.until(suspended, "Waiting", "DownstreamBusy")
    stream.until(deleted, "Waiting", "DownstreamBusy")
    link.tell(stall)
    stream.suspend(suspended)
    stream.delete(deleted)
    new = stream.add("new", 1)
    label = f'lease_held{{namespace="{stream.namespace}",stream="{stream.stream}"}}'
    eventually(lambda: f"{label} 0.0" in linked.metrics(), 20)
    link.tell(heal)
    stream.until(new, "Succeeded", within=40)
    stream.until(suspended, "Waiting", "Suspended", within=20)
    assert [call.step for user in ("suspended", "never") for call in stream.calls(user)] == ["profile", "profile"]


async def test_a_path_unknown_to_the_api_server_is_no_object_that_is_gone(
    environment: Environment, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is starting may not know our kinds yet: no outcome may be dropped for that."""
    monkeypatch.setenv("KUBECONFIG", str(environment.kubeconfig))
    async with Cluster.connect() as cluster:
        with pytest.raises(errors.Unavailable, match="page not found"):
            await cluster.get(Resource(names.GROUP, names.VERSION, "notyet"), namespace, "some")
        with pytest.raises(errors.NotFound, match="some"):
            await cluster.get(UPDATES, namespace, "some")


def test_an_api_server_that_restarts_in_the_middle(stream: ControllerStream, start_controller: StartReplica) -> None:
    stream.rules(latency=0.1)
    stream.apply()
    start_controller()
    made = stream.records([f"user{number}" for number in range(20)], 5, datetime.now(UTC))
    eventually(lambda: "Succeeded" in stream.phases().values())
    stream.environment.kill("apiserver")
    stream.environment.start("apiserver")
    late = stream.add("late", 1)
    stream.all_finished(40)
    assert stream.phases()[late] == "Succeeded"
    assert stream.violations(finished=made) == []


def compact(environment: Environment) -> None:
    """etcd forgets all versions but the newest: a watch that goes on from an older one gets 410 Gone."""
    url = f"http://{HOST}:{environment.ports.get('etcd')}/v3/kv"
    revision = httpx.post(f"{url}/range", json={"key": "AA=="}, trust_env=False).json()["header"]["revision"]
    httpx.post(f"{url}/compaction", json={"revision": revision}, trust_env=False).raise_for_status()


def test_a_view_older_than_what_etcd_remembers(stream: ControllerStream, start_controller: StartReplica) -> None:
    stream.rules({"user": "ana", "action": "busy"})
    stream.apply(every={"busyDelaySeconds": 300})
    controller = start_controller()
    first, second = stream.add("ana", 1), stream.add("ana", 2)
    stream.until(first, "Waiting", "DownstreamBusy")
    controller.freeze()
    stream.environment.kill("apiserver")
    compact(stream.environment)
    stream.environment.start("apiserver")
    stream.delete(first)
    stream.rules()
    compact(stream.environment)
    controller.thaw()
    # Nothing tells of the deletion any more: a list has to.
    stream.until(stream.add("bo", 1), "Succeeded", within=20)
    stream.until(second, "Succeeded", within=20)
    assert steps(stream.calls("ana")) == [("ana", 1, "profile"), *all_steps("ana", 2)]


def test_a_stream_deleted_while_nobody_watched(stream: ControllerStream, start_controller: StartReplica) -> None:
    stream.apply(suspend={"users": ["ana"]})
    controller = start_controller()
    name = stream.add()
    stream.until(name, "Waiting", "Suspended")
    controller.freeze()
    stream.environment.kill("apiserver")
    stream.environment.start("apiserver")
    stream.remove()
    controller.thaw()
    stream.until(name, "Waiting", "StreamMissing", within=30)
    assert stream.calls() == []
