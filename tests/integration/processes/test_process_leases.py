"""Each process watches the other one's Lease: a stream whose bridge or controllers do not renew theirs says so."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest

from controller.api import names
from controller.clients.process_lease import LEASE_SECONDS
from devenv import broker
from devenv.apiserver import NAMESPACE
from devenv.environment import Environment
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.pipeline import Pipeline, make_pipeline
from tests.support.replicas import Replica, cut_off
from tests.support.rights import audited_environment

SIGNS = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
#: Seconds until the condition shows a silence: lists are 15 s apart at most, reports two.
TOLD_WITHIN = LEASE_SECONDS + 22


@pytest.fixture
def second(environment: Environment) -> Iterator[tuple[Environment, Kube]]:
    """An API server of its own, so that one minute serves both directions; Kafka is the session's."""
    with audited_environment(environment.sources, "signs") as found:
        yield found


def applied(kube: Kube, environment: Environment, namespace: str, topic: str, servers: str) -> Pipeline:
    found = make_pipeline(kube, environment, namespace, topic)
    found.apply(kafka={"bootstrapServers": servers})
    return found


def conditions(stream: Pipeline) -> dict[str, tuple[str, str]]:
    """Status and reason by type."""
    found = stream.ingested.status().get("conditions", ())
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in found}


def says(stream: Pipeline, within: float, **wanted: tuple[str, str]) -> None:
    def said() -> bool:
        found = conditions(stream)
        assert {kind: found.get(kind) for kind in wanted} == wanted, found
        return True

    eventually(said, within, every=0.5)


WELL = {"Consuming": ("True", "Consuming"), "Processing": ("True", "Processing"), "Ready": ("True", "Ready")}


def test_who_is_not_heard_of_for_a_minute_is_unknown_and_is_back_when_it_is(
    environment: Environment, kube: Kube, second: tuple[Environment, Kube], namespace: str, topic: str
) -> None:
    """Here the controller freezes; before the other API server the bridge is cut off from it. Neither restarts."""
    own, other_kube = second
    servers, other_topic = environment.bootstrap_servers, f"{topic}-2"
    other_kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    broker.create_topic(servers, other_topic)
    frozen = Replica(environment, environment.replica("controller", f"controller-{secrets.token_hex(3)}"))
    beside = Replica(environment, environment.replica("bridge", f"bridge-{secrets.token_hex(3)}"))
    watching = Replica(own, own.replica("controller", f"controller-{secrets.token_hex(3)}"))
    replicas = (frozen, beside, watching)
    try:
        with cut_off(own, "bridge", f"bridge-{secrets.token_hex(3)}") as (bridge, link):
            here = applied(kube, environment, namespace, topic, servers)
            there = applied(other_kube, own, namespace, other_topic, servers)
            for replica in (*replicas, bridge):
                replica.start()
            for stream in (here, there):
                says(stream, 20, **WELL)
            silent = time.monotonic()
            frozen.freeze()
            link.hold()
            says(here, TOLD_WITHIN, Processing=("Unknown", "NoController"), Ready=("Unknown", "NoController"))
            says(there, TOLD_WITHIN, Consuming=("Unknown", "NoBridge"), Ready=("Unknown", "NoBridge"))
            assert time.monotonic() - silent > LEASE_SECONDS - 15, "no sooner than what was heard of last is old"
            assert conditions(here)["Consuming"] == WELL["Consuming"]
            assert conditions(there)["Processing"] == WELL["Processing"]
            assert names.lease_name(here.ingested.name) in condition(here, "Processing")["message"]
            assert names.COMPONENT_LABEL in condition(there, "Consuming")["message"]
            frozen.thaw()
            link.hold(False)
            says(here, 10, **WELL)
            says(there, 20, **WELL)
    finally:
        for replica in replicas:
            replica.kill()
        broker.delete_topic(servers, other_topic)


def condition(stream: Pipeline, kind: str) -> dict[str, Any]:
    return next(entry for entry in stream.ingested.status()["conditions"] if entry["type"] == kind)
