"""The API server refuses what the bridge writes: it slows down, says so, loses no record and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import httpx

from controller.bridge.backlogs.writer import PARALLEL
from controller.bridge.pausing import HIGH_WATER, UNWRITTEN_COST
from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.admission import asked, policy
from tests.support.bridge_stream import BridgeStream, check_links, good
from tests.support.eventually import eventually
from tests.support.kube import MERGE_PATCH
from tests.support.replicas import Replica


@dataclass(frozen=True, slots=True)
class Quota:
    """A ResourceQuota on the objects of one kind of ours.

    The API server's admission counts creates and refuses them; what a quota allows, and what deletions free, is for the
    controller-manager to write, which does not run here.
    """

    ingested: BridgeStream
    plural: str

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.ingested.namespace}/resourcequotas"

    def allow(self, count: int) -> None:
        """So many objects from now on; those that are there count."""
        name, counted = f"few-{self.plural}", f"count/{self.plural}.enrichment.dev"
        hard = {"hard": {counted: str(count)}}
        path = f"{self._path}/{name}"
        if not self.ingested.kube.client.get(path).is_success:
            self.ingested.kube.call("POST", self._path, {"metadata": {"name": name}, "spec": hard})
        there = len(self.ingested.kube.list(self.ingested.namespace, self.plural))
        status = {"status": {**hard, "used": {counted: str(there)}}}
        self.ingested.kube.call("PATCH", f"{path}/status", status, headers=MERGE_PATCH)

    @property
    def used(self) -> int:
        """As the admission has counted."""
        (quota,) = self.ingested.kube.call("GET", self._path)["items"]
        return int(next(iter(quota["status"]["used"].values())))

    def acts(self) -> None:
        """Wait until the admission knows the quota: it looks at a cache of its own."""
        eventually(lambda: asked(self.ingested.kube, self.ingested.namespace, self.plural) == 403, 20)


def test_a_quota_that_is_used_up_slows_the_bridge_down(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    bridge = start_bridge()
    quota = Quota(ingested, "userupdates")
    quota.allow(0)
    quota.acts()
    quota.allow(7)
    before = ingested.kube.requests("userupdates")["POST", "403"]
    ingested.apply(limits={"maxObjects": 1000, "maxPerUser": 50})
    users = [f"user{number}" for _ in range(5) for number in range(20)]
    ingested.produce(good(users))
    ingested.reason("CreatesRefused", 30)
    assert "exceeded quota" in ingested.condition()["message"]
    assert len(ingested.updates()) == quota.used == 7
    refused = ingested.kube.requests("userupdates")["POST", "403"] - before
    assert refused < 300, "asked without a break"
    # Room comes bit by bit, in the middle of creates.
    for count in range(10, 100, 15):
        quota.allow(count)
        eventually(lambda count=count: len(ingested.updates()) >= count, 30)  # type: ignore[misc]
        assert len(ingested.updates()) <= count
    quota.allow(1000)
    ingested.positioned(100, 30)
    ingested.has_made([(0, offset) for offset in range(100)])
    check_links(ingested.updates())
    assert bridge.running
    eventually(lambda: ingested.condition()["status"] == "True")


def test_a_flood_of_poison_that_a_quota_refuses_to_show_holds_no_good_record_back(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    """`position` waits for what is not shown yet; the good records behind it do not."""
    bridge = start_bridge()
    quota = Quota(ingested, "rejectedevents")
    quota.allow(0)
    quota.acts()
    ingested.apply(limits={"maxObjects": 1000, "maxPerUser": 50})
    ingested.produce([("ana", b"poison")] * 300)
    ingested.produce(good(["ana", "bo", "cy"]))
    eventually(lambda: ingested.offsets() == [(0, 300), (0, 301), (0, 302)], 20)
    ingested.reason("CreatesRefused", 20)
    assert "exceeded quota" in ingested.condition()["message"]
    assert ingested.entry()["position"] == 0
    quota.allow(1000)
    ingested.positioned(303, 30)
    assert sum(entry["count"] for entry in ingested.rejected()) == 300
    assert bridge.running
    eventually(lambda: ingested.condition()["status"] == "True")


def test_a_backlog_that_a_quota_refuses_loses_nothing(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    """The user's records stay where they are, and `position` before them; other users' go on."""
    bridge = start_bridge()
    quota = Quota(ingested, "userbacklogs")
    quota.allow(0)
    quota.acts()
    ingested.apply(limits={"maxObjects": 1000, "maxPerUser": 5})
    ingested.produce(good(["big"] * 40))
    ingested.reason("CreatesRefused", 40)
    ingested.produce(good(["ana", "bo"]))
    eventually(lambda: ingested.offsets()[-2:] == [(0, 40), (0, 41)], 20)
    assert ingested.entry()["position"] == 5
    bridge.kill()
    bridge.start()
    quota.allow(1)
    ingested.positioned(42, 60)

    def drained() -> bool:
        for update in ingested.unfinished():
            ingested.finish(update)
        return len(ingested.updates()) == 42

    eventually(drained, 60)
    ingested.has_made([(0, offset) for offset in range(42)])


def test_backlogs_that_are_refused_keep_no_other_one_waiting(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    """More of them than are written at a time; the condition names them, and they are written once accepted."""
    start_bridge()
    ingested.apply(limits={"maxObjects": 1000, "maxPerUser": 1})
    refused = [f"bad{number}" for number in range(2 * PARALLEL)]
    allowed = "!object.spec.user.startsWith('bad')"
    with policy(ingested.kube, ingested.namespace, "userbacklogs", allowed, reason="Invalid"):
        before = ingested.kube.requests("userbacklogs")["POST", "422"]
        ingested.produce(good(refused * 3))
        ingested.produce(good(["good"] * 3))
        ingested.reason("CreatesRefused", 40)
        assert "refused by a test's policy" in ingested.condition()["message"]
        eventually(lambda: [body["spec"]["user"] for body in ingested.backlogs()] == ["good"], 10)
        # Further backlogs are not slowed down by those that are still refused.
        ingested.produce(good(f"good{number}" for _ in range(3) for number in range(50)))
        eventually(lambda: len(ingested.backlogs()) == 51, 20)
        assert ingested.kube.requests("userbacklogs")["POST", "422"] - before < 500, "asked without a break"
    ingested.positioned(6 * PARALLEL + 3 + 150, 60)
    eventually(lambda: ingested.condition()["status"] == "True")


def test_records_that_no_backlog_takes_wait_in_kafka(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    """Their offsets were kept in memory without a bound, beside the budget for records."""
    bridge = start_bridge()
    ingested.apply(limits={"maxObjects": 1000, "maxPerUser": 1})
    with policy(ingested.kube, ingested.namespace, "userbacklogs", "false", reason="Forbidden"):
        users = ["ana", "bo", "cy", "dan"]
        ingested.produce(good(users * 20))
        ingested.reason("CreatesRefused", 30)
        ingested.produce(good(users * 15_000))
        most = HIGH_WATER // UNWRITTEN_COST
        eventually(lambda: _read(bridge) > most, 30)
        # It creates updates of what it has read, and reads no more than what is on its way.
        ingested.change(limits={"maxPerUser": 2})
        eventually(lambda: len(ingested.updates()) == 8, 10)
        assert _read(bridge) < 2 * most
    ingested.positioned(60_080, 60)


def _read(bridge: Replica) -> int:
    """Records that it has read, by its count."""
    lines = bridge.metrics().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("enrichment_bridge_records_total{")))


def test_an_api_server_that_is_overloaded_is_asked_more_slowly(
    ingested: BridgeStream, start_bridge: StartReplica, environment: Environment
) -> None:
    """A real 429 with a `Retry-After`: the API server takes one write at a time, and there are thirty under way."""
    bridge = start_bridge()
    with started(environment, "apiserver", "--max-mutating-requests-inflight=1"):
        bridge.wait_ready()
        ingested.apply(limits={"maxObjects": 2000, "maxPerUser": 50})
        ingested.produce(good(f"user{number}" for _ in range(4) for number in range(100)))
        eventually(lambda: ingested.kube.requests("userupdates")["POST", "429"] > 0, 30)
        ingested.positioned(400, 90)
        refused = ingested.kube.requests("userupdates")["POST", "429"]
    ingested.has_made([(0, offset) for offset in range(400)])
    check_links(ingested.updates())
    assert bridge.running
    print(f"{refused} of the creates were answered 429")


def test_an_api_server_without_its_etcd_is_outlived(
    ingested: BridgeStream, start_bridge: StartReplica, environment: Environment
) -> None:
    """It answers, and each answer is a 5xx: whether a create was done nobody knows."""
    with started(environment, "apiserver", "--request-timeout=3s"):
        bridge = start_bridge()
        ingested.apply(limits={"maxObjects": 2000, "maxPerUser": 50})
        users = [f"user{number}" for _ in range(2) for number in range(100)]
        ingested.produce(good(users))
        eventually(lambda: ingested.count() >= 50, 30)
        environment.kill("etcd")
        try:
            ingested.produce(good(users))
            assert min(delete_nothing(ingested) for _ in range(3)) >= 500
        finally:
            environment.start("etcd")
        # Until then it breaks connections off, those of tests too; to etcd it has one for each kind.
        for kind in ("userupdates", "updatestreams"):
            eventually(partial(gone, ingested, kind), 60)
        ingested.positioned(400, 90)
        ingested.has_made([(0, offset) for offset in range(400)])
        check_links(ingested.updates())
        assert bridge.running


def gone(ingested: BridgeStream, kind: str) -> bool:
    return delete_nothing(ingested, kind) == 404


def delete_nothing(ingested: BridgeStream, kind: str = "userupdates") -> int:
    """The answer's status; 599 where the API server breaks the connection off instead."""
    try:
        path = ingested.kube.path(ingested.namespace, kind, "none")
        return ingested.kube.client.delete(path).status_code
    except httpx.TransportError:
        return 599


@contextmanager
def started(environment: Environment, name: str, *options: str) -> Iterator[None]:
    """A part of the environment with options of its own, for a while."""
    command = environment.command(name)
    changed = replace(command, argv=(*command.argv, *options))
    environment.processes.start(changed)
    environment.processes.wait_ready(changed)
    try:
        yield
    finally:
        environment.start(name)
