"""An uninstall leaves kinds and updates where they are; installed again, all goes on. What is asked to go, goes."""

from __future__ import annotations

import json

import pytest

from devenv.errors import CommandFailed
from devenv.kind.cluster import KindEnvironment
from devenv.manifests import DEPLOY
from tests.support.eventually import eventually
from tests.support.manifests import UPDATE, changed
from tests.support.pipeline import Pipeline

pytestmark = pytest.mark.timeout(600)


def test_an_uninstall_and_an_install_later_all_goes_on(pipeline: Pipeline, environment: KindEnvironment) -> None:
    pipeline.apply()
    pipeline.processing.rules({"name": "stuck", "user": "stuck", "action": "busy"})
    count = pipeline.produce(["ana", "stuck", "bo"], 3)
    pipeline.done(6, within=60)
    pipeline.all_recorded(6)
    workloads = ("statefulset/bridge", "deployment/controller")
    environment.kubectl("-n", "enrichment-system", "delete", *workloads, "--cascade=foreground", timeout=180)
    environment.kubectl("delete", "-k", str(DEPLOY / "base"), "--ignore-not-found", timeout=180)
    assert len(pipeline.ingested.updates()) == count, "updates, done and undone, stay"
    assert pipeline.processing.lease(), "and so does what is not ours to delete"
    with pytest.raises(CommandFailed, match="not found"):
        environment.kubectl("get", "namespace", "enrichment-system")
    pipeline.processing.rules()
    pipeline.produce(["late"], 1)
    environment.install()
    pipeline.done(count + 1, within=120)
    pipeline.all_recorded(count + 1)
    assert pipeline.processing.violations() == []


def test_what_is_asked_to_go_goes(pipeline: Pipeline, environment: KindEnvironment) -> None:
    """Streams first, while the bridge still lets their backlogs go; then the rest, and the kinds last."""
    pipeline.apply(suspend={"users": ["big"]}, limits={"maxPerUser": 1})
    pipeline.produce(["big"], 30)
    eventually(lambda: pipeline.ingested.backlogs(), 60)
    kubectl = environment.kubectl
    for kind in ("updatestreams", "userupdates", "rejectedevents", "userbacklogs"):
        kubectl("delete", kind, "--all", "--all-namespaces", "--timeout=60s", timeout=70)
    kubectl("delete", "-k", str(DEPLOY / "base"), timeout=180)
    kubectl("delete", "-f", "crds/", "--timeout=60s", timeout=70)
    assert "enrichment.dev" not in kubectl("get", "crds")
    environment.install()  # and all of it comes back
    kubectl("-n", pipeline.ingested.namespace, "create", "-f", "-", stdin=json.dumps(changed(UPDATE, {})))
