"""What the admission policies of `deploy/base` refuse, and what the roles for people allow, by a real API server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from controller.api import names, requests
from devenv.environment import Environment
from devenv.manifests import DEPLOY
from tests.support.eventually import eventually
from tests.support.kube import MERGE_PATCH, Kube
from tests.support.manifests import SOURCE, STREAM, UPDATE, changed

POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
DRY = {"dryRun": "All"}
#: The namespace of the two processes.
LABELLED = {"enrichment.dev/installation": "true"}
#: A policy acts some seconds after it was made.
COMPILED = 60


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "base" / name).read_text()))


@pytest.fixture
def policies(kube: Kube, namespace: str) -> Iterator[None]:
    """Bound to the namespace of this test alone."""
    made = []
    for document in documents("admission.yaml"):
        path = POLICIES if document["kind"] == "ValidatingAdmissionPolicy" else BINDINGS
        if path == BINDINGS:
            selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
            document["spec"]["matchResources"] = {"namespaceSelector": selector}
        kube.call("POST", path, document)
        made.append(f"{path}/{document['metadata']['name']}")
    yield
    for path in made:
        kube.call("DELETE", path)


@pytest.fixture
def people(kube: Kube, namespace: str) -> Iterator[None]:
    """One user for each role, bound to it in the namespace of this test."""
    roles = documents("user-roles.yaml")
    for role in roles:
        name = role["metadata"]["name"]
        kube.call("POST", f"{RBAC}/clusterroles", role)
        binding = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        }
        kube.call("POST", f"{RBAC}/namespaces/{namespace}/rolebindings", binding)
    yield
    for role in roles:
        kube.call("DELETE", f"{RBAC}/clusterroles/{role['metadata']['name']}")


def created(kube: Kube, namespace: str, manifest: str, user: str = "", **changes: Any) -> httpx.Response:
    """The answer to a dry run of a create, as that user where one is named."""
    body = changed(manifest, {path.replace("__", "."): value for path, value in changes.items()})
    headers = {"Impersonate-User": user} if user else {}
    path = kube.path(namespace, f"{body['kind'].lower()}s")
    return kube.client.post(path, json=body, params=DRY, headers=headers)


@pytest.mark.usefixtures("policies", "people")
def test_only_who_may_ingest_sets_a_source(kube: Kube, environment: Environment, namespace: str) -> None:
    def refused(person: str) -> bool:
        answer = created(kube, namespace, UPDATE, person, spec__source=SOURCE)
        return answer.status_code == 403 and "set by the bridge alone" in answer.text

    eventually(lambda: refused("enrichment-admin"), COMPILED)
    assert refused("enrichment-operator")
    assert created(kube, namespace, UPDATE, "enrichment-operator").is_success, "by hand, without a source"
    bridge = Kube.connect(environment.account_kubeconfig("bridge"))
    with bridge.client:
        assert created(bridge, namespace, UPDATE, spec__source=SOURCE).is_success
    assert created(kube, namespace, UPDATE, spec__source=SOURCE).is_success, "who has all rights restores backups"


@pytest.mark.usefixtures("policies")
def test_the_controller_labels_updates_and_changes_nothing_else(
    kube: Kube, environment: Environment, namespace: str
) -> None:
    kube.create(namespace, "userupdates", changed(UPDATE, {"metadata.labels": {"mine": "x"}}))
    path = kube.path(namespace, "userupdates", changed(UPDATE, {})["metadata"]["name"])
    controller = Kube.connect(environment.account_kubeconfig("controller"))

    def patched(body: dict[str, Any], by: Kube = controller) -> int:
        return by.client.patch(path, json=body, params=DRY, headers=MERGE_PATCH).status_code

    with controller.client:
        eventually(lambda: patched({"spec": {"suspend": True}}) == 403, COMPILED)
        assert patched({"metadata": {"labels": {names.BUCKET_LABEL: "7"}}}) == 200
        assert patched({"metadata": {"labels": {names.USER_LABEL: "ana"}}}) == 200, "where it is missing"
        for other in (
            {"labels": {"mine": "y"}},
            {"labels": {"mine": None}},
            {"labels": {names.STREAM_LABEL: "other"}},
            {"annotations": {names.REQUEST_ANNOTATION: "skip"}},
        ):
            assert patched({"metadata": other}) == 403, other
        assert patched({"spec": {"suspend": True}}, by=kube) == 200, "a person may"


@pytest.mark.usefixtures("policies")
@pytest.mark.parametrize("account", ["bridge", "controller"])
def test_the_processes_adopt_streams_and_change_nothing_else(
    kube: Kube, environment: Environment, namespace: str, account: str
) -> None:
    kube.create(namespace, "updatestreams", changed(STREAM, {"metadata.annotations": {"mine": "x"}}))
    path = kube.path(namespace, "updatestreams", "user-updates")
    process = Kube.connect(environment.account_kubeconfig(account))

    def patched(body: dict[str, Any], by: Kube = process) -> int:
        return by.client.patch(path, json=body, params=DRY, headers=MERGE_PATCH).status_code

    with process.client:
        eventually(lambda: patched({"spec": {"suspend": {"ingest": True}}}) == 403, COMPILED)
        assert patched({"metadata": {"annotations": {names.UID_ANNOTATION: "a"}}}) == 200
        for other in ({"labels": {"mine": "y"}}, {"annotations": {"mine": "y"}}, {"annotations": {"mine": None}}):
            assert patched({"metadata": other}) == 403, other
        kube.patch(
            namespace, "updatestreams", "user-updates", {"metadata": {"annotations": {names.UID_ANNOTATION: "a"}}}
        )
        assert patched({"metadata": {"annotations": {names.UID_ANNOTATION: "b"}}}) == 403, "a person's to take off"
        assert patched({"spec": {"suspend": {"ingest": True}}}, by=kube) == 200, "a person may"


@pytest.mark.usefixtures("policies", "people")
def test_who_sends_secrets_somewhere_may_read_them(kube: Kube, namespace: str) -> None:
    secret: dict[str, Any] = {"spec__steps__profile__secretRef": {"name": "token"}}

    def refused() -> bool:
        answer = created(kube, namespace, STREAM, "enrichment-admin", **secret)
        return answer.status_code == 403 and "takes the right to read Secrets" in answer.text

    eventually(refused, COMPILED)
    assert created(kube, namespace, STREAM, "enrichment-admin").is_success, "no Secret is named"
    assert created(kube, namespace, STREAM, **secret).is_success, "the administrator reads all"
    kube.create(namespace, "updatestreams", changed(STREAM, {"spec.steps.profile.secretRef": {"name": "token"}}))
    path = kube.path(namespace, "updatestreams", "user-updates")

    def patched(spec: dict[str, Any]) -> int:
        headers = {"Impersonate-User": "enrichment-operator", "Content-Type": "application/merge-patch+json"}
        return kube.client.patch(path, json={"spec": spec}, params=DRY, headers=headers).status_code

    assert patched({"suspend": {"processing": True}}) == 200
    assert patched({"steps": {"profile": {"url": "http://elsewhere/"}}}) == 403


@pytest.mark.usefixtures("policies")
def test_no_stream_goes_with_an_uninstall(kube: Kube, namespace: str) -> None:
    def refused(manifest: str) -> bool:
        answer = created(kube, namespace, manifest)
        return answer.status_code == 403 and f"{namespace} is deleted by an uninstall" in answer.text

    (installed,) = documents("namespace.yaml")
    kube.call("PATCH", f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": LABELLED}}, headers=MERGE_PATCH)
    assert LABELLED.items() <= installed["metadata"]["labels"].items()
    eventually(lambda: refused(STREAM), COMPILED)
    eventually(lambda: refused(UPDATE), COMPILED)


ASKED = {"metadata.annotations": {names.REQUEST_ANNOTATION: "retyr"}}


@pytest.mark.usefixtures("policies")
def test_what_cannot_be_asked_for_is_refused_and_what_can_is_not(kube: Kube, namespace: str) -> None:
    def asked(name: str, request: str | None, **metadata: Any) -> httpx.Response:
        path = kube.path(namespace, "userupdates", name)
        body = {"metadata": {"annotations": {names.REQUEST_ANNOTATION: request}, **metadata}}
        return kube.client.patch(path, json=body, params=DRY, headers=MERGE_PATCH)

    by_hand = kube.create(namespace, "userupdates", changed(UPDATE, {}))["metadata"]["name"]
    eventually(lambda: asked(by_hand, "retyr").status_code == 422, COMPILED)
    assert "'retyr' is not a request: it must be retry, restart, skip or cancel" in asked(by_hand, "retyr").text
    for wrong in ("", "RETRY", "retry ", " retry", "retry2", ":retry", "skip\n", "retry:" + "2" * 59, "skip;cancel"):
        assert asked(by_hand, wrong).status_code == 422, wrong
    for verb in requests.VERBS:
        for right in (verb, f"{verb}:2", f"{verb}:" + "2" * (requests.MAX_REQUEST - len(verb) - 1)):
            assert asked(by_hand, right).is_success, right
    # Made before there was the policy, or restored: all else of it can be written, and the request taken back.
    mistyped = kube.create(namespace, "userupdates", changed(UPDATE, {"metadata.name": "mistyped", **ASKED}))
    name = mistyped["metadata"]["name"]
    assert asked(name, "retyr", labels={"mine": "x"}).is_success
    assert asked(name, None).is_success
    assert asked(name, "retyr:2").status_code == 422


def test_the_policy_names_the_verbs_that_the_controller_knows() -> None:
    (policy,) = [
        each for each in documents("admission.yaml") if each["spec"].get("variables", [{}])[0].get("name") == "request"
    ]
    (validation,) = policy["spec"]["validations"]
    (verbs,) = re.findall(r"\^\((.+?)\)", validation["expression"])
    assert set(verbs.split("|")) == set(requests.VERBS)
    for told in (validation["message"], validation["messageExpression"]):
        assert all(verb in told for verb in requests.VERBS)
    assert f"<= {requests.MAX_REQUEST}" in validation["expression"]


ALLOWED = {
    "enrichment-viewer": {"get", "list", "watch"},
    "enrichment-operator": {"patch", "create", "update", "delete"},
    "enrichment-admin": {"patch", "create", "update", "delete", "deletecollection"},
}


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("role", ALLOWED)
def test_people_may(kube: Kube, namespace: str, role: str) -> None:
    def may(verb: str, resource: str, subresource: str = "") -> bool:
        attributes = {"verb": verb, "resource": resource, "group": "enrichment.dev", "namespace": namespace}
        spec = {"user": role, "resourceAttributes": {**attributes, "subresource": subresource}}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(kube.call("POST", path, review)["status"]["allowed"])

    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
    eventually(lambda: {verb for verb in verbs if may(verb, "userupdates")} == ALLOWED[role])
    assert not any(may(verb, "userupdates", "status") for verb in ("update", "patch"))
    assert may("create", "updatestreams") == (role == "enrichment-admin")
    assert may("delete", "userbacklogs") == (role == "enrichment-admin")


def test_the_roles_are_part_of_the_built_in_ones() -> None:
    added = {role["metadata"]["name"]: role["metadata"]["labels"] for role in documents("user-roles.yaml")}
    for name, built_in in (("viewer", "view"), ("operator", "edit"), ("admin", "admin")):
        assert added[f"enrichment-{name}"][f"rbac.authorization.k8s.io/aggregate-to-{built_in}"] == "true"
