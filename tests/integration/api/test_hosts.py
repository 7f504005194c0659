"""The hosts that a stream may name, where the component `deploy/components/hosts` is installed."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from devenv import manifests
from devenv.environment import Environment
from tests.support.eventually import eventually
from tests.support.kube import MERGE_PATCH, Kube
from tests.support.manifests import STREAM, changed

COMPONENT = manifests.DEPLOY / "components" / "hosts"
DOCUMENT = manifests.DEPLOY.parent / "docs" / "install.md"
#: As an overlay would have it: comments, blanks and capitals in it.
LISTED = {
    "downstreams": "# ours\n127.0.0.1\n  Downstream.example \n.svc.cluster.local\n\n[2001:db8::1]",
    "brokers": "127.0.0.1\n.kafka.svc",
}
URL = "spec.steps.permissions.url"
SERVERS = "spec.kafka.bootstrapServers"


@pytest.fixture(scope="module")
def place(environment: Environment, kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The namespace to which the policy is bound, with the list in it."""
    folder = tmp_path_factory.mktemp("overlay")
    suffix = f"-{secrets.token_hex(4)}"
    namespace = f"hosts{suffix}"
    settings = {
        "components": [os.path.relpath(COMPONENT, folder)],
        "namespace": namespace,
        "nameSuffix": suffix,
        "patches": [
            _patch("ConfigMap", {"data": LISTED}),
            _patch("ValidatingAdmissionPolicyBinding", {"spec": {"matchResources": _only(namespace)}}),
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(settings))
    text = manifests.kustomize(folder)
    kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    environment.kubectl("apply", "--server-side", "-f", "-", stdin=text)
    eventually(lambda: tried(kube, namespace, {URL: "http://elsewhere.example/"}).status_code == 403, 60)
    yield namespace
    environment.kubectl("delete", "--wait=false", "-f", "-", stdin=text)
    kube.empty(namespace)


def _patch(kind: str, change: dict[str, Any]) -> dict[str, Any]:
    return {"target": {"kind": kind}, "patch": yaml.safe_dump({"kind": kind, "metadata": {"name": "any"}, **change})}


def _only(namespace: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}


def tried(kube: Kube, namespace: str, changes: dict[str, Any]) -> httpx.Response:
    path = kube.path(namespace, "updatestreams")
    return kube.client.post(path, json=changed(STREAM, changes), params={"dryRun": "All"})


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="an address that is listed"),
        pytest.param({URL: "https://downstream.EXAMPLE:8443/a?b=http://elsewhere"}, id="a name"),
        pytest.param({URL: "http://api.shop.svc.cluster.local/"}, id="what a name ends in"),
        pytest.param({URL: "http://[2001:DB8::1]:80/"}, id="IPv6"),
        pytest.param({SERVERS: "a.kafka.svc:9092,b.kafka.svc:9092,127.0.0.1:9092"}, id="brokers"),
    ],
)
def test_hosts_that_are_listed_may_be_named(kube: Kube, place: str, changes: dict[str, Any]) -> None:
    answer = tried(kube, place, changes)
    assert answer.is_success, answer.text


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({URL: "http://elsewhere.example/"}, "spec.steps.permissions.url names the host elsewhere.example"),
        ({URL: "http://downstream.example.evil.example/"}, "names the host downstream.example.evil.example"),
        ({URL: "http://sub.downstream.example/"}, "names the host sub.downstream.example"),
        ({URL: "http://evil.example/?downstream.example"}, "names the host evil.example"),
        ({URL: "http://xsvc.cluster.local/"}, "names the host xsvc.cluster.local"),
        ({URL: "http://[::1]:80/"}, "names the host ::1"),
        ({SERVERS: "127.0.0.1:9092,evil.example:9092"}, "spec.kafka.bootstrapServers names the host evil.example"),
        ({SERVERS: "downstream.example:9092"}, "names the host downstream.example"),
    ],
)
def test_others_are_refused_by_field_and_host(kube: Kube, place: str, changes: dict[str, Any], want: str) -> None:
    answer = tried(kube, place, changes)
    assert answer.status_code == 403
    assert f"{want}, which is not allowed here: the ConfigMap {place}/enrichment-hosts-" in answer.text


def test_a_stream_that_names_another_host_already_can_be_suspended(
    kube: Kube, environment: Environment, place: str
) -> None:
    """A list that became shorter stops nothing that is there, and lets nothing else elsewhere."""
    kube.create(place, "updatestreams", changed(STREAM, {}))
    (listed,) = kube.call("GET", f"/api/v1/namespaces/{place}/configmaps")["items"]
    path = f"/api/v1/namespaces/{place}/configmaps/{listed['metadata']['name']}"
    kube.call("PATCH", path, {"data": {"downstreams": "other.example"}}, headers=MERGE_PATCH)
    another = {"metadata.name": "another"}
    eventually(lambda: tried(kube, place, another).status_code == 403)

    def patched(spec: dict[str, Any]) -> int:
        return kube.client.patch(
            kube.path(place, "updatestreams", "user-updates"), json={"spec": spec}, headers=MERGE_PATCH
        ).status_code

    assert patched({"suspend": {"processing": True}}) == 200
    assert patched({"steps": {"profile": {"url": "http://127.0.0.1:8080/other"}}}) == 403
    assert patched({"steps": {"profile": {"url": "http://other.example/"}}}) == 200
    kube.call("PATCH", path, {"data": LISTED}, headers=MERGE_PATCH)
    eventually(lambda: tried(kube, place, another).is_success)


def test_the_list_allows_nothing_until_somebody_fills_it() -> None:
    (listed,) = yaml.safe_load_all((COMPONENT / "hosts.yaml").read_text())
    assert set(listed["data"]) == {"downstreams", "brokers"} and not any(listed["data"].values())


def test_it_is_in_no_installation_by_itself() -> None:
    assert "enrichment-hosts" not in manifests.INSTALL.read_text()


def test_the_documented_example_is_an_overlay(tmp_path: Path) -> None:
    """In another namespace the list is looked for there."""
    (example,) = re.findall(r"^```yaml\n(resources: .*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    here = os.path.relpath(manifests.OVERLAYS / "mine", tmp_path)
    settings = yaml.safe_load(example)
    for key in ("resources", "components"):
        settings[key] = [os.path.normpath(f"{here}/{path}") for path in settings[key]]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(settings | {"namespace": "elsewhere"}))
    rendered = {
        (each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(manifests.kustomize(tmp_path))
    }
    listed = rendered["ConfigMap", "enrichment-hosts"]
    assert listed["data"] == {"downstreams": "downstream.example.com\n.svc.cluster.local\n", "brokers": ".kafka.svc"}
    binding = rendered["ValidatingAdmissionPolicyBinding", "enrichment-hosts"]["spec"]
    assert listed["metadata"]["namespace"] == binding["paramRef"]["namespace"] == "elsewhere"
    assert ("Deployment", "controller") in rendered
