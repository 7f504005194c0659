"""What `deploy/` renders to: current, confined, and with the versions that the rest of the checkout has."""

from __future__ import annotations

import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import tests.support.rights
from devenv import manifests
from devenv.layout import ROOT

OVERLAYS = [path.name for path in manifests.overlays()]


@cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(manifests.kustomize(manifests.OVERLAYS / overlay)))


def kinds(overlay: str, *wanted: str) -> list[dict[str, Any]]:
    return [document for document in rendered(overlay) if document["kind"] in wanted]


def workloads(overlay: str) -> dict[str, dict[str, Any]]:
    """Pod specs by name."""
    found = kinds(overlay, "Deployment", "StatefulSet")
    return {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in found}


def test_install_yaml_is_current() -> None:
    assert manifests.INSTALL.read_text() == manifests.install(), "run `make manifests`"


def test_an_uninstall_leaves_the_kinds_and_so_the_updates() -> None:
    documents = list(yaml.safe_load_all(manifests.INSTALL.read_text()))
    assert len(documents) > 20
    assert "CustomResourceDefinition" not in {document["kind"] for document in documents}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_confined(overlay: str) -> None:
    assert {"bridge", "controller"} <= workloads(overlay).keys()
    for name, pod in workloads(overlay).items():
        assert pod["securityContext"]["runAsNonRoot"] and not pod["enableServiceLinks"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]} and not context["allowPrivilegeEscalation"], name
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert container["resources"]["limits"].keys() == {"memory"}


@pytest.mark.parametrize("overlay", ["kind", "production"])
@pytest.mark.parametrize(("name", "command"), [("bridge", "bridge"), ("controller", "run")])
def test_the_processes_run_as_they_are_meant_to(overlay: str, name: str, command: str) -> None:
    pod = workloads(overlay)[name]
    (container,) = pod["containers"]
    assert pod["serviceAccountName"] == name
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["args"][0] == command
    assert {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    # More than a process takes to end calls in flight and record what they gave.
    assert pod["terminationGracePeriodSeconds"] >= 30


def test_production_has_replicas_and_a_budget_for_each() -> None:
    count = {
        each["metadata"]["name"]: each["spec"]["replicas"] for each in kinds("production", "Deployment", "StatefulSet")
    }
    assert count == {"bridge": 2, "controller": 3}
    budgets = {each["metadata"]["name"]: each["spec"] for each in kinds("production", "PodDisruptionBudget")}
    assert {name: budget["maxUnavailable"] for name, budget in budgets.items()} == {"bridge": 1, "controller": 1}
    for name, pod in workloads("production").items():
        assert pod["affinity"]["podAntiAffinity"]
        labels = budgets[name]["selector"]["matchLabels"]
        assert labels["app.kubernetes.io/component"] == name


def test_no_traffic_but_what_is_named() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in kinds("production", "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (downstream,) = policies["downstreams"]["egress"]
    assert {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]} in [to["ipBlock"] for to in downstream["to"]]
    (kafka,) = policies["kafka"]["egress"]
    assert kafka["ports"][0]["port"] <= 9092 <= 9094 <= kafka["ports"][0]["endPort"]


def test_both_accounts_have_a_place_in_the_api_server() -> None:
    schemas = {each["metadata"]["name"]: each["spec"] for each in kinds("production", "FlowSchema")}
    (level,) = kinds("production", "PriorityLevelConfiguration")
    assert schemas["enrichment"]["priorityLevelConfiguration"]["name"] == level["metadata"]["name"]
    subjects = {subject["serviceAccount"]["name"] for subject in schemas["enrichment"]["rules"][0]["subjects"]}
    assert subjects == {right.account for right in tests.support.rights.granted()}
    assert schemas["enrichment-leases"]["matchingPrecedence"] < schemas["enrichment"]["matchingPrecedence"]


def test_the_bindings_of_namespaces_follow_the_accounts_into_another_one(tmp_path: Path) -> None:
    """As docs/install.md says it: the installation in a folder of its own, with its namespace."""
    deploy, copy = os.path.relpath(manifests.DEPLOY, tmp_path), tmp_path / "copy"
    shutil.copytree(manifests.OVERLAYS / "namespaced", copy)
    for path in copy.rglob("kustomization.yaml"):
        path.write_text(
            path.read_text().replace("- ../production", "- install").replace("../../components", "../components")
        )
    (copy / "install").mkdir()
    (copy / "install" / "kustomization.yaml").write_text(
        f"namespace: elsewhere\nresources: [../../{deploy}/overlays/production]\n"
    )
    (tmp_path / "components").symlink_to(manifests.DEPLOY / "components")
    documents = list(yaml.safe_load_all(manifests.kustomize(copy)))
    bindings = [each for each in documents if each["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    assert {each["metadata"].get("namespace") for each in bindings} == {"elsewhere", "team-a", "team-b", None}
    assert {subject["namespace"] for each in bindings for subject in each["subjects"]} == {"elsewhere"}


def test_versions_are_those_of_the_checkout() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    images = {container["image"] for pod in workloads("production").values() for container in pod["containers"]}
    assert images == {f"userupdates:{version[1]}"}
    dockerfile = (ROOT / "Dockerfile").read_text()
    (uv,) = re.findall(r"^UV_VERSION := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f"ARG UV_VERSION={uv}\n" in dockerfile
    assert "# syntax=" not in dockerfile, "it would need a registry"
    assert re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE) == ["65532:65532"]
