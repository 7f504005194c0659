"""What an event costs in counts: they do not depend on the machine, so a rise is a regression. `make bench` has times.

A bound is what is needed today and no more. Whoever lowers a count lowers its bound with it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.api.update_stream import KafkaSpec
from controller.kafka import Assigned, Fetched, Fetcher, GroupMember, Notification, Topic, client_config
from devenv.environment import Environment
from tests.benchmarks.meter import Meter, figures
from tests.chaos import topic as topics
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream
from tests.support.eventually import eventually, eventually_async
from tests.support.kube import Kube
from tests.support.pipeline import Pipeline
from tests.support.records import GOOD

USERS = [f"user{number:03d}" for number in range(40)]
EACH = 5
#: Requests that no event asks for: the Lease's and the stream's status, once a second at most; what kubectl looks up.
BESIDES = ("leases", "updatestreams", "openapi")


@pytest.fixture
def pipeline(pipeline: Pipeline, start_bridge: StartReplica, start_controller: StartReplica) -> Pipeline:
    """The stream, with both processes at work."""
    start_bridge()
    start_controller()
    return pipeline


def costs(pipeline: Pipeline, environment: Environment) -> dict[str, float]:
    """What each of EACH events of every user costs the API server and etcd."""
    warm = pipeline.produce(USERS, 1)
    pipeline.done(warm, within=60)
    pipeline.all_recorded(warm)
    meter = Meter(pipeline.ingested.kube, environment.command("etcd").url, {})
    before = meter.before()
    count = pipeline.produce(USERS, EACH)
    pipeline.done(warm + count, within=60)
    pipeline.all_recorded(warm + count)
    seen = figures(before, meter.after(), count, own=())

    def watched() -> bool:
        """The watches get the last events a moment later."""
        previous, seen["watch_events"] = seen["watch_events"], figures(before, meter.after(), count, ())["watch_events"]
        return previous == seen["watch_events"]

    eventually(watched, every=0.5)
    return seen


def of_events(found: dict[str, float], *verbs: str) -> dict[str, float]:
    """Requests an event by these verbs, without those that come with time."""
    requests = {name.removeprefix("requests."): count for name, count in found.items() if name.startswith("requests.")}
    return {
        name: count
        for name, count in requests.items()
        if name.split()[0] in verbs and not any(resource in name for resource in BESIDES)
    }


def test_every_step_costs_a_create_and_three_patches(pipeline: Pipeline, environment: Environment) -> None:
    pipeline.apply(checkpoints="EveryStep")
    found = costs(pipeline, environment)
    assert of_events(found, "POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION") == {
        "POST userupdates": 1.0,
        "PATCH userupdates/status": 3.0,
    }
    # Nothing is looked up one by one.
    assert of_events(found, "GET") == {}
    # The bridge: made, twice changed, finished. kopf: made, and no more of its business. The controller's watch of
    # what people ask of running and finished ones, metadata alone: running, changed, finished.
    assert found["watch_events"] <= 9.0
    # Four times an object of 2 KB; the rest is for Lease and stream, which are written by time.
    assert found["etcd_bytes"] <= 12_000


def test_coalesced_costs_a_create_and_one_patch_or_two(pipeline: Pipeline, environment: Environment) -> None:
    pipeline.apply(checkpoints="Coalesced")
    found = costs(pipeline, environment)
    writes = of_events(found, "POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION")
    patches = writes.pop("PATCH userupdates/status")
    assert writes == {"POST userupdates": 1.0}
    # Two where the machine is so busy that a step's result has waited for its quarter of a second.
    assert 1.0 <= patches <= 2.0
    # A predecessor is looked up where the worker that finished it was removed since.
    assert sum(of_events(found, "GET").values()) <= 0.1
    # The bridge: made and finished, or changed in between. kopf: made, and no more of its business. The controller's
    # other watch: finished, or changed in between.
    assert found["watch_events"] <= round(3.0 + 2 * patches, 6)  # the sum is a hair below what it stands for
    assert found["etcd_bytes"] <= 3_000 * (1 + patches)


async def test_a_backlog_is_fetched_in_batches(environment: Environment, kube: Kube, topic: str) -> None:
    count = 5000
    BridgeStream(kube, environment.bootstrap_servers, "default", topic).produce(("user", GOOD) for _ in range(count))
    requests: dict[str, int] = {}

    def told(text: str) -> None:
        for broker in json.loads(text)["brokers"].values():
            requests[broker["name"]] = broker.get("req", {}).get("Fetch", 0)

    statistics: dict[str, Any] = {"statistics.interval.ms": 100, "stats_cb": told}
    spec = KafkaSpec(environment.bootstrap_servers, topic, topic, {}, None)
    seen: list[Notification] = []
    description = Topic(topic, topics.create(environment.bootstrap_servers, topic, 1), 1)
    member = GroupMember(client_config(spec, {}) | statistics, description, topic, "counted", seen.append)
    try:

        async def assigned() -> bool:
            return any(isinstance(event, Assigned) for event in seen)

        async def read() -> bool:
            items = sum(len(event.items) for event in seen if isinstance(event, Fetched))
            return items >= count and bool(requests)

        await eventually_async(assigned, within=30)
        member.fetch_from({(0, next(event.serial for event in seen if isinstance(event, Assigned))): 0})
        await eventually_async(read, within=30)
    finally:
        await member.close()
    batches = [event for event in seen if isinstance(event, Fetched)]
    # At most 500 records each; a megabyte a fetch, and the one that waits at the end.
    assert len(batches) <= 15
    assert sum(requests.values()) <= 6


async def test_what_is_read_again_is_no_more_than_there_is_room_for(
    environment: Environment, kube: Kube, topic: str
) -> None:
    """A hundred streams share the memory of three: a pass of each may not read the three megabytes that one may."""
    value = {**GOOD, "profile": "x" * 100_000}
    BridgeStream(kube, environment.bootstrap_servers, "default", topic).produce(("user", value) for _ in range(40))
    spec = KafkaSpec(environment.bootstrap_servers, topic, topic, {}, None)
    description = Topic(topic, topics.create(environment.bootstrap_servers, topic, 1), 1)
    share = 1.0
    reader = Fetcher(client_config(spec, {}), description, topic, lambda: share)
    try:
        wanted = list(range(40))
        for share_now in (1.0, 0.03):
            share = share_now
            found = await reader.fetch(0, wanted, 500_000)
            assert [record.offset for record in found.records] == wanted[:5]
            assert found.missing == []
            wanted = wanted[5:]
        make_pipeline = await reader.fetch(0, wanted)
        assert [record.offset for record in make_pipeline.records] == wanted[:30]
    finally:
        reader.close()
