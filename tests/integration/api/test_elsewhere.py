"""Installed into another namespace by kustomize: nothing names the one that the manifests have."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from controller.api import names
from devenv import apiserver, manifests
from devenv.environment import Environment
from tests.support.eventually import eventually
from tests.support.kube import MERGE_PATCH, Kube
from tests.support.manifests import SOURCE, STREAM, UPDATE, changed

RBAC = "/apis/rbac.authorization.k8s.io/v1"
DRY = {"dryRun": "All"}


def rendered(folder: Path, **settings: str) -> str:
    """What an overlay over the one for production renders to, with nothing but these settings."""
    base = os.path.relpath(manifests.OVERLAYS / "production", folder)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [base], **settings}))
    return manifests.kustomize(folder)


def test_the_namespace_is_named_nowhere_else(tmp_path: Path) -> None:
    text = rendered(tmp_path, namespace="elsewhere")
    assert apiserver.NAMESPACE not in text
    (namespace,) = [document for document in yaml.safe_load_all(text) if document["kind"] == "Namespace"]
    assert namespace["metadata"]["name"] == "elsewhere"


@dataclass(frozen=True, slots=True)
class Installed:
    """A second installation, beside whatever the environment has: its names end in a suffix of their own."""

    namespace: str
    suffix: str
    documents: list[dict[str, Any]]

    def account(self, name: str) -> str:
        return f"system:serviceaccount:{self.namespace}:{name}{self.suffix}"

    def subjects(self, *kinds: str) -> set[str]:
        """The accounts that objects of these kinds name."""
        found = [subject for document in self.documents if document["kind"] in kinds for subject in _subjects(document)]
        return {f"system:serviceaccount:{each['namespace']}:{each['name']}" for each in found}


def _subjects(document: dict[str, Any]) -> list[dict[str, Any]]:
    if document["kind"] == "FlowSchema":
        return [each["serviceAccount"] for rule in document["spec"]["rules"] for each in rule["subjects"]]
    return list(document["subjects"])


@pytest.fixture(scope="module")
def installed(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    suffix = f"-{secrets.token_hex(4)}"
    text = rendered(tmp_path_factory.mktemp("overlay"), namespace=f"elsewhere{suffix}", nameSuffix=suffix)
    environment.kubectl("apply", "--server-side", "-f", "-", stdin=text)
    yield Installed(f"elsewhere{suffix}", suffix, list(yaml.safe_load_all(text)))
    environment.kubectl("delete", "--wait=false", "-f", "-", stdin=text)


def test_the_accounts_of_the_installation_have_the_rights_and_the_priority(installed: Installed) -> None:
    both = {installed.account("bridge"), installed.account("controller")}
    assert installed.subjects("ClusterRoleBinding") == installed.subjects("RoleBinding") == both
    assert installed.subjects("FlowSchema") == both


def test_its_bridge_makes_updates_and_nobody_else(kube: Kube, namespace: str, installed: Installed) -> None:
    """With all rights to updates but that to ingest."""
    role = {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": f"enrichment-admin{installed.suffix}",
    }
    subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ana"}]
    binding = {"metadata": {"name": "ana"}, "roleRef": role, "subjects": subjects}
    kube.call("POST", f"{RBAC}/namespaces/{namespace}/rolebindings", binding)
    forged = changed(UPDATE, {"spec.source": SOURCE})

    def made(user: str) -> httpx.Response:
        path = kube.path(namespace, "userupdates")
        return kube.client.post(path, json=forged, params=DRY, headers={"Impersonate-User": user})

    def refused() -> bool:
        answer = made("ana")
        return answer.status_code == 403 and "the right to ingest" in answer.text

    eventually(refused, 60)
    assert made(installed.account("bridge")).is_success
    assert made(installed.account("controller")).status_code == 403


def test_its_controller_labels_and_nothing_else(kube: Kube, namespace: str, installed: Installed) -> None:
    kube.create(namespace, "userupdates", changed(UPDATE, {}))
    path = kube.path(namespace, "userupdates", changed(UPDATE, {})["metadata"]["name"])

    def patched(body: dict[str, Any]) -> int:
        headers = {"Impersonate-User": installed.account("controller"), **MERGE_PATCH}
        return kube.client.patch(path, json=body, params=DRY, headers=headers).status_code

    eventually(lambda: patched({"spec": {"suspend": True}}) == 403, 60)
    assert patched({"metadata": {"labels": {names.BUCKET_LABEL: "7"}}}) == 200


def test_its_namespace_takes_no_stream(kube: Kube, installed: Installed) -> None:
    def refused(manifest: str, plural: str) -> bool:
        body = changed(manifest, {})
        answer = kube.client.post(kube.path(installed.namespace, plural), json=body, params=DRY)
        return answer.status_code == 403 and f"{installed.namespace} is deleted by an uninstall" in answer.text

    eventually(lambda: refused(STREAM, "updatestreams"), 60)
    eventually(lambda: refused(UPDATE, "userupdates"), 60)
