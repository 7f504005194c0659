"""An uninstall leaves kinds and updates where they are; installed again, all goes on. What is asked to go, goes."""

from __future__ import annotations

import json

import pytest

from devenv.errors import CommandFailed
from devenv.kind.cluster import KindEnvironment
from devenv.manifests import DEPLOY
from tests.support.applying import UPDATE, changed
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.whole import Whole, whole

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def way(kube: Kube, environment: KindEnvironment, namespace: str, topic: str) -> Whole:
    return whole(kube, environment, namespace, topic)


def test_an_uninstall_and_an_install_later_all_goes_on(way: Whole, environment: KindEnvironment) -> None:
    way.apply()
    way.processing.rules({"name": "stuck", "user": "stuck", "action": "busy"})
    count = way.produce(["ana", "stuck", "bo"], 3)
    way.done(6, within=60)
    way.all_recorded(6)
    workloads = ("statefulset/bridge", "deployment/controller")
    environment.kubectl("-n", "enrichment-system", "delete", *workloads, "--cascade=foreground", timeout=180)
    environment.kubectl("delete", "-k", str(DEPLOY / "base"), "--ignore-not-found", timeout=180)
    assert len(way.ingested.updates()) == count, "updates, done and undone, stay"
    assert way.processing.lease(), "and so does what is not ours to delete"
    with pytest.raises(CommandFailed, match="not found"):
        environment.kubectl("get", "namespace", "enrichment-system")
    way.processing.rules()
    way.produce(["late"], 1)
    environment.install()
    way.done(count + 1, within=120)
    way.all_recorded(count + 1)
    assert way.processing.violations() == []


def test_what_is_asked_to_go_goes(way: Whole, environment: KindEnvironment) -> None:
    """Streams first, while the bridge still lets their backlogs go; then the rest, and the kinds last."""
    way.apply(suspend={"users": ["big"]}, limits={"maxPerUser": 1})
    way.produce(["big"], 30)
    eventually(lambda: way.ingested.backlogs(), 60)
    kubectl = environment.kubectl
    for kind in ("updatestreams", "userupdates", "rejectedevents", "userbacklogs"):
        kubectl("delete", kind, "--all", "--all-namespaces", "--timeout=60s", timeout=70)
    kubectl("delete", "-k", str(DEPLOY / "base"), timeout=180)
    kubectl("delete", "-f", "crds/", "--timeout=60s", timeout=70)
    assert "enrichment.dev" not in kubectl("get", "crds")
    environment.install()  # and all of it comes back
    kubectl("-n", way.ingested.namespace, "create", "-f", "-", stdin=json.dumps(changed(UPDATE, {})))
