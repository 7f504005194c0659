"""/readyz: a replica is ready when each stream has its place, here or elsewhere, and not before. /healthz: it lives."""

from __future__ import annotations

import socket

import aiohttp
import pytest

from controller.config import Settings
from controller.health import Health, serve
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream
from tests.support.controller_stream import ControllerStream


def test_a_controller_is_ready_when_it_works_on_what_is_there(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    stream.apply()
    start_controller("controller-ready")
    assert stream.lease().get("holderIdentity") == "controller-ready"


def test_a_standby_is_ready_when_it_has_seen_who_holds_the_stream(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    stream.apply()
    start_controller("controller-holder")
    stream.held_by("controller-holder")
    start_controller("controller-standby")
    assert stream.lease()["holderIdentity"] == "controller-holder"


def test_a_bridge_is_ready_when_it_has_its_partitions(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    ingested.apply()
    assert "Partitions assigned" in start_bridge().tail()


def test_a_bridge_without_partitions_is_ready_too(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    ingested.apply()
    start_bridge()
    assert "Partitions assigned" not in start_bridge().tail(), "the topic has one partition"


def test_a_bridge_is_ready_when_it_has_said_why_it_reads_nothing(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    ingested.apply(kafka={"topic": "no-such-topic"})
    start_bridge()
    ingested.reason("TopicMissing")


@pytest.mark.parametrize(("untrusted", "status"), [(False, 200), (True, 503)])
async def test_a_process_that_has_not_trusted_the_api_server_for_minutes_asks_to_be_restarted(
    untrusted: bool, status: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with serve(Settings("me", "127.0.0.1", port), Health(untrusted=lambda: untrusted)):
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/healthz") as answer:
            assert answer.status == status
