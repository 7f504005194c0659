"""`python -m tests.stored`: write what this version stores to `tests/stored/VERSION.yaml`, by running it, and its kinds
to `tests/stored/crds/VERSION.yaml`.

Once before each release. Bridge, controller, Kafka and API server are real; the downstream misbehaves so that updates
are in every phase, one of them in the middle of its steps.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from devenv import broker, lifecycle
from devenv.environment import Environment
from devenv.kubectl import CRDS
from tests.support.bridge_stream import BridgeStream, good
from tests.support.controller_stream import ControllerStream
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.replicas import Replica

NAMESPACE, NAME = "shop", "orders"
#: Where the stream's steps were when its objects were written: nobody is there.
NOWHERE = "http://downstream.example"
KINDS = ("updatestreams", "userupdates", "rejectedevents", "userbacklogs")
RULES = (
    {"user": "busy", "step": "permissions", "action": "busy", "retryAfter": 300},
    {"user": "failing", "step": "resources", "action": "fail"},
    {"user": "rejected", "step": "profile", "action": "reject"},
    {"user": "held", "step": "permissions", "action": "reject"},
)


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="userupdates-stored-"))
    environment = Environment(directory)
    try:
        lifecycle.up_infrastructure(environment)
        kube = Kube.connect(environment.kubeconfig)
        kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        broker.create_topic(environment.bootstrap_servers, NAME)
        objects = _play(environment, kube)
    finally:
        lifecycle.down(environment)
        shutil.rmtree(directory, ignore_errors=True)
    path = Path(__file__).with_name(f"{version('userupdates')}.yaml")
    path.write_text(yaml.safe_dump_all(objects, sort_keys=False), encoding="utf-8")
    kinds = "\n---\n".join(path.read_text(encoding="utf-8").strip() for path in sorted(CRDS.glob("*.yaml")))
    (path.parent / "crds" / path.name).write_text(f"{kinds}\n", encoding="utf-8")


def _play(environment: Environment, kube: Kube) -> list[dict[str, Any]]:
    ingested = BridgeStream(kube, environment.bootstrap_servers, NAMESPACE, NAME, name=NAME)
    processing = ControllerStream(kube, environment, NAMESPACE, NAME)
    steps: dict[str, Any] = {
        step: {"url": f"{environment.downstream_url}/{step}"} for step in ("profile", "permissions", "resources")
    }
    steps["resources"] |= {"retry": {"initialSeconds": 300, "maxSeconds": 300}}
    ingested.apply(steps=steps, suspend={"users": ["big"]}, limits={"maxPerUser": 2})
    processing.rules(*RULES)
    ingested.produce(good(["done", "busy", "failing", "rejected", "busy"]))
    ingested.produce([("bad", b"nonsense"), *good(["done"] * 2), *good(["big"] * 9)])
    replicas = [Replica(environment, environment.replica(role, role)) for role in ("bridge", "controller")]
    for replica in replicas:
        replica.start()
    eventually(lambda: ingested.backlogs(), 60)
    eventually(lambda: {"Succeeded", "Waiting", "Failed"} <= set(processing.phases().values()), 60)
    ingested.change(onRejected="Hold")
    processing.add("held", 1)
    processing.until("held-1", "Waiting", "Held", within=30)
    for number, request in enumerate(("skip", "cancel")):
        name = processing.add("asked", number, suspend=True)
        processing.ask(name, request)
        processing.until(name, {"skip": "Skipped", "cancel": "Cancelled"}[request], within=30)
    processing.until(processing.add("suspended", 1, suspend=True), "Waiting", "Suspended", within=30)
    for replica in replicas:
        replica.stop()
    return [_stored(item, environment) for kind in KINDS for item in kube.list(NAMESPACE, kind)]


def _stored(item: dict[str, Any], environment: Environment) -> dict[str, Any]:
    """As it is in etcd, without what the API server keeps for itself, and addresses of this machine."""
    item["metadata"].pop("managedFields", None)
    if item["kind"] == "UpdateStream":
        item["spec"]["kafka"]["bootstrapServers"] = "kafka.example:9092"
        for step in item["spec"]["steps"].values():
            step["url"] = step["url"].replace(environment.downstream_url, NOWHERE)
    return item


if __name__ == "__main__":
    main()
