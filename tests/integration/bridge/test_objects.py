"""The API server refuses single objects for what is in them: each waits for as long as it is refused, and alone."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from controller.bridge import pausing, streams
from controller.config import Settings
from controller.health import Health
from controller.kafka import group_member
from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.admission import asked, policy, webhook, webhooks_called
from tests.support.background import repeating
from tests.support.bridge_stream import BridgeStream, check_links, good
from tests.support.eventually import eventually, throughout
from tests.support.kube import Kube
from tests.support.records import GOOD
from tests.support.schemas import CRDS

NOT_BAD = "!object.spec.user.startsWith('bad')"


def users(ingested: BridgeStream) -> set[str]:
    return {update["spec"]["user"] for update in ingested.updates()}


@contextmanager
def others(ingested: BridgeStream) -> Iterator[None]:
    """A record of somebody else every half second: a stream on which nothing else happens is no different from one
    that is refused as a whole."""
    with repeating(lambda: ingested.produce(good(["other"])), 0.5):
        yield


def whole(ingested: BridgeStream) -> None:
    """Wait until each record is a UserUpdate."""

    def all_made() -> bool:
        return ingested.offsets() == [(0, offset) for offset in range(ingested.entry()["position"])]

    eventually(all_made, 40)
    assert ingested.rejected() == []


def test_forty_users_whose_updates_a_policy_refuses_as_too_large_keep_nobody_waiting(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    start_bridge()
    ingested.apply(limits={"maxObjects": 1000, "maxPerUser": 50})
    bad = [f"bad{number}" for number in range(40)]
    refused_by = policy(
        ingested.kube, ingested.namespace, "userupdates", NOT_BAD, message="too much", reason="RequestEntityTooLarge"
    )
    with refused_by:
        eventually(lambda: _acts(ingested))
        before = ingested.kube.requests("userupdates")["POST", "413"]
        ingested.produce(good(bad * 3))
        ingested.produce(good(["good"]))
        eventually(lambda: users(ingested) == {"good"}, 6)
        ingested.reason("CreatesRefused", 10)
        assert "partition 0, offset" in ingested.condition()["message"]
        assert "too much" in ingested.condition()["message"]
        with others(ingested):
            eventually(lambda: ingested.entry()["position"] > 120, 40)
        assert users(ingested) == {"good", "other"}
        assert len(ingested.backlogs()) == 40
        assert ingested.condition()["reason"] == "CreatesRefused"
        refused = ingested.kube.requests("userupdates")["POST", "413"] - before
        assert refused < 40 * 20, "asked without a break"
    whole(ingested)
    eventually(lambda: ingested.condition()["reason"] == "Consuming", 20)


def _acts(ingested: BridgeStream) -> bool:
    return asked(ingested.kube, ingested.namespace, "userupdates", user="bad") == 413


def test_a_refused_user_lets_the_position_move_on_though_nothing_else_happens(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    start_bridge()
    ingested.apply()
    with policy(ingested.kube, ingested.namespace, "userupdates", NOT_BAD, reason="Forbidden"):
        eventually(lambda: asked(ingested.kube, ingested.namespace, "userupdates", user="bad") == 403)
        ingested.produce(good(["bad", "bad"]))
        ingested.reason("CreatesRefused", 10)
        ingested.produce(good(["good"]))
        ingested.positioned(3, 30)
        ingested.has_made([(0, 2)])
        ingested.reason("CreatesRefused", 10)
    whole(ingested)


ANSWERS: dict[str, dict[str, Any]] = {
    "none": {},
    "400": {"code": 400},
    "401": {"code": 401},
    "403": {"code": 403, "reason": "Forbidden"},
    "404": {"code": 404, "reason": "NotFound"},
    "409": {"code": 409, "reason": "Conflict"},
    "there": {"code": 409, "reason": "AlreadyExists"},
    "410": {"code": 410, "reason": "Expired"},
    "413": {"code": 413},
    "422": {"code": 422, "reason": "Invalid", "details": {"causes": [{"field": "spec.user", "message": "no"}]}},
    "429": {"code": 429, "reason": "TooManyRequests"},
    "500": {"code": 500, "reason": "InternalError"},
    "503": {"code": 503, "reason": "ServiceUnavailable"},
}


def test_no_answer_of_a_webhook_is_final(
    ingested: BridgeStream, start_bridge: StartReplica, environment: Environment
) -> None:
    """Longer than others: the API server is started again, twice, as that of the environment calls no webhooks."""
    with webhooks_called(environment):
        bridge = start_bridge()
        ingested.apply(limits={"maxObjects": 1000, "maxPerUser": 50})
        with webhook(ingested.kube, ingested.namespace, dict(ANSWERS)) as hook:
            ingested.produce(good(list(ANSWERS) * 2))
            ingested.produce(good(["good"]))
            eventually(lambda: users(ingested) == {"good"}, 10)
            with others(ingested):
                eventually(lambda: ingested.entry()["position"] > 2 * len(ANSWERS), 40)
            assert users(ingested) == {"good", "other"}
            assert ingested.condition()["reason"] == "CreatesRefused"
            hook.refusals.clear()
            whole(ingested)
        assert bridge.running


def test_a_rejected_event_that_is_refused_is_not_given_up(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    """Not even without its record; and those of other records are shown."""
    bridge = start_bridge()
    ingested.apply(limits={"maxObjects": 1000, "maxPerUser": 50})
    no_json = "object.spec.reason != 'NotJSON'"
    with policy(ingested.kube, ingested.namespace, "rejectedevents", no_json, reason="Invalid"):
        eventually(lambda: _shows_no_json(ingested))
        ingested.produce([("ana", b"poison"), *good(["ana"]), *[("bo", None)] * 2, *good(["bo"])])
        eventually(lambda: len(ingested.rejected()) == 2, 20)
        assert {entry["reason"] for entry in ingested.rejected()} == {"Tombstone"}
        ingested.has_made([(0, 1), (0, 4)])
        ingested.reason("CreatesRefused", 10)
        assert "the RejectedEvent of partition 0, offset 0" in ingested.condition()["message"]
        throughout(lambda: ingested.entry()["position"] == 0, 2)
    ingested.positioned(5, 40)
    assert sorted(entry["source"]["offset"] for entry in ingested.rejected()) == [0, 2, 3]
    assert bridge.running
    eventually(lambda: ingested.condition()["reason"] == "Consuming", 20)


@pytest.fixture
def older_schema(kube: Kube) -> Iterator[Callable[[], None]]:
    """The CRD of an earlier version, which knows fewer reasons and no message; called: that of today again."""
    (today,) = copy.deepcopy(CRDS["rejectedevents"]["spec"]["versions"])
    earlier = copy.deepcopy(today)
    spec = earlier["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["message"]
    spec["x-kubernetes-validations"] = [
        rule for rule in spec["x-kubernetes-validations"] if "message" not in rule["rule"]
    ]
    spec["properties"]["reason"]["pattern"] = "^(NotJSON|Tombstone)$"
    columns = earlier["additionalPrinterColumns"]
    earlier["additionalPrinterColumns"] = [each for each in columns if each["name"] != "Message"]

    def serve(version: dict[str, Any]) -> None:
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rejectedevents.enrichment.dev"
        patch = [{"op": "replace", "path": "/spec/versions/0", "value": version}]
        kube.call("PATCH", path, patch, headers={"Content-Type": "application/json-patch+json"})

    serve(earlier)
    yield lambda: serve(today)
    serve(today)


def test_a_schema_without_messages_takes_all_but_the_reasons_that_it_does_not_know(
    ingested: BridgeStream, start_bridge: StartReplica, older_schema: Callable[[], None]
) -> None:
    """Those wait until it is upgraded, and keep nobody else waiting."""
    start_bridge()
    ingested.apply()
    eventually(lambda: asked(ingested.kube, ingested.namespace, "rejectedevents", reason="KeyNotText") == 422, 20)
    ingested.produce([("ana", b"{")] * 300)
    ingested.positioned(300)
    assert sum(entry["count"] for entry in ingested.rejected()) == 300 > len(ingested.rejected())
    assert not any("message" in entry for entry in ingested.rejected())
    ingested.produce([(b"ana\n", GOOD), *good(["ana"]), ("bo", None)])
    ingested.reason("CreatesRefused", 20)
    assert "the RejectedEvent of partition 0, offset 300" in ingested.condition()["message"]
    eventually(lambda: ingested.offsets() == [(0, 301)], 10)
    assert ingested.entry()["position"] == 300
    older_schema()
    ingested.positioned(303, 40)
    found = {entry["source"]["offset"]: entry for entry in ingested.rejected()}
    assert found[300]["reason"] == "KeyNotText" and "line feed" in found[300]["message"]


def _shows_no_json(ingested: BridgeStream) -> bool:
    return asked(ingested.kube, ingested.namespace, "rejectedevents") == 422


@contextmanager
def bridge_in_process(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bridge whose bounds a test may change."""
    monkeypatch.setenv("KUBECONFIG", str(environment.account_kubeconfig("bridge")))
    ready, stopping = threading.Event(), threading.Event()

    async def run() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(streams.run(Settings("in-process", "127.0.0.1", 0), stop, Health()))
        ready.set()
        await asyncio.to_thread(stopping.wait)
        stop.set()
        await task

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(30)
    assert not thread.is_alive()


def test_a_position_that_is_held_up_bounds_what_is_made_above_it(
    ingested: BridgeStream, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of it can be collected. The bounds are a hundredth of what they are, as 20,000 creates take a while."""
    for module, name, value in (
        (pausing, "CREATED_HIGH", 200),
        (pausing, "CREATED_LOW", 150),
        (pausing, "HIGH_WATER", 100_000),
        (pausing, "LOW_WATER", 60_000),
        (group_member, "MAX_UNCONSUMED", 60_000),
        (group_member, "BATCH", 50),
    ):
        monkeypatch.setattr(module, name, value)
    count = 2000
    with bridge_in_process(environment, monkeypatch):
        with policy(ingested.kube, ingested.namespace, "rejectedevents", message="no poison today"):
            ingested.apply(limits={"maxObjects": 5000, "maxPerUser": 100})
            ingested.produce([("ana", b"poison")])
            ingested.produce(good(f"user{number % 100}" for number in range(count)))
            ingested.reason("PositionHeld", 30)
            assert "partition 0 stays at position 0" in ingested.condition()["message"]
            eventually(lambda: "no poison today" in ingested.condition()["message"])
            throughout(lambda: 200 <= len(ingested.updates()) < 600, 1)
        ingested.positioned(count + 1, 60)
        eventually(lambda: ingested.condition()["reason"] == "Consuming", 20)
        # The position also passes what waits in backlogs, where creating is slow enough that memory was short.
        eventually(lambda: len(ingested.updates()) == count, 60)
    check_links(ingested.updates())
