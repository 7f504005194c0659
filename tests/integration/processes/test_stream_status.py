"""`UpdateStream.status` as several write it: what one of them is refused keeps none of the others waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controller.bridge.positions import MAX_ENTRIES
from controller.clients.cluster import STREAMS, Cluster
from controller.clients.event_recorder import EventRecorder
from controller.clients.stream_status import REFUSED, StreamStatus
from controller.errors import ApiError, Forbidden, Invalid, NotFound
from devenv.environment import Environment
from tests.support.admission import policy
from tests.support.bridge_stream import BridgeStream
from tests.support.kube import Kube


@pytest.fixture
def ingested(kube: Kube, environment: Environment, namespace: str) -> BridgeStream:
    """A stream that nobody consumes."""
    ingested = BridgeStream(kube, environment.bootstrap_servers, namespace, "nowhere")
    ingested.apply()
    return ingested


@pytest.fixture
async def status(
    ingested: BridgeStream, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StreamStatus]:
    monkeypatch.setenv("KUBECONFIG", str(environment.kubeconfig))
    async with Cluster.connect() as cluster:
        body = await cluster.get(STREAMS, ingested.namespace, ingested.name)
        recorder = EventRecorder(cluster, "bridge", "test")
        yield StreamStatus(cluster, recorder, ingested.namespace, ingested.name, body["metadata"]["uid"])


def at(position: Any) -> Any:
    """A change that lists a partition with that position."""
    return lambda status: {**status, "partitions": [{"topicId": "id", "partition": 0, "position": position}]}


def held(count: int) -> Any:
    return lambda status: {**status, "counts": {**status.get("counts", {}), "held": count}}


def refused(ingested: BridgeStream) -> float:
    return float(REFUSED.labels(ingested.namespace, ingested.name)._value.get())


async def together(*works: Any) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*works, return_exceptions=True), 60)


async def test_what_the_schema_refuses_keeps_no_other_change_waiting(
    ingested: BridgeStream, status: StreamStatus
) -> None:
    """It was tried for ever, together with the changes that came at the same moment."""
    bad, good = await together(status.apply(at(-1)), status.apply(held(3)))
    assert isinstance(bad, Invalid)
    assert good["counts"] == {"held": 3}
    assert ingested.status() == {"counts": {"held": 3}}
    assert refused(ingested) >= 1
    # It is not tried again either when the next change comes.
    await asyncio.wait_for(status.apply(held(4)), 60)
    assert ingested.status() == {"counts": {"held": 4}}


@pytest.mark.parametrize("reason", ["", "Forbidden", "RequestEntityTooLarge"])
async def test_what_a_policy_refuses_keeps_no_other_change_waiting(
    ingested: BridgeStream, status: StreamStatus, reason: str
) -> None:
    allowed = "!has(object.status) || !has(object.status.partitions)"
    with policy(ingested.kube, ingested.namespace, "updatestreams/status", allowed, reason=reason):
        bad, good = await together(status.apply(at(5)), status.apply(held(3)))
    assert isinstance(bad, Invalid | Forbidden)
    assert "refused by a test's policy" in str(bad)
    assert good["counts"] == {"held": 3}
    await asyncio.wait_for(status.apply(at(5)), 60)
    assert ingested.entry()["position"] == 5


async def test_a_change_that_fails_by_itself_fails_for_nobody_else(
    ingested: BridgeStream, status: StreamStatus
) -> None:
    def fail(status: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("of its own")

    failed, good = await together(status.apply(fail), status.apply(held(3)))
    assert isinstance(failed, RuntimeError)
    assert good["counts"] == {"held": 3}


async def test_a_stream_that_is_gone_is_gone_for_all(ingested: BridgeStream, status: StreamStatus) -> None:
    ingested.kube.delete(ingested.namespace, "updatestreams", ingested.name)
    assert all(isinstance(each, NotFound) for each in await together(status.apply(at(5)), status.apply(held(3))))


async def test_a_refusal_that_never_ends_is_not_asked_without_a_break(
    ingested: BridgeStream, status: StreamStatus, environment: Environment
) -> None:
    """Whoever wants the refused change may ask for it again; the write rate of a stream holds for that too."""
    before = ingested.kube.requests("updatestreams")
    for _ in range(3):
        with pytest.raises(ApiError):
            await asyncio.wait_for(status.apply(at(-1)), 60)
    asked = ingested.kube.requests("updatestreams") - before
    assert asked["PATCH", "422"] == 3


@pytest.mark.filterwarnings("ignore:Sending a large body")
async def test_what_is_too_large_for_etcd_keeps_no_other_change_waiting(
    ingested: BridgeStream, status: StreamStatus
) -> None:
    """The API server calls that an error of its own, 500."""
    entries = [
        {"topic": "t" * 249, "topicId": f"id-{number}", "partition": number, "position": 2**53 - 1}
        for number in range(5000)
    ]
    large, good = await together(status.apply(lambda status: {**status, "partitions": entries}), status.apply(held(3)))
    assert isinstance(large, Invalid)
    assert "too large" in str(large)
    assert good["counts"] == {"held": 3}
    # So many as the bridge lists of a topic with the longest name are not too large.
    await asyncio.wait_for(status.apply(lambda status: {**status, "partitions": entries[:MAX_ENTRIES]}), 60)
    assert len(ingested.status()["partitions"]) == MAX_ENTRIES
