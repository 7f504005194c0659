"""Policies that refuse writes of some of our objects: real ones, whose answer has the code that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.eventually import eventually
from tests.kube import Kube

_GROUP = "/apis/admissionregistration.k8s.io/v1"
#: What a policy may give as its reason, and the status code that its answer has then.
REASONS = {"": 422, "Forbidden": 403, "Unauthorized": 401, "Invalid": 422, "RequestEntityTooLarge": 413}


@contextmanager
def policy(
    kube: Kube,
    namespace: str,
    resource: str,
    allowed: str,
    operations: tuple[str, ...] = ("CREATE", "UPDATE"),
    reason: str = "",
) -> Iterator[None]:
    """In that namespace `resource` ("userbacklogs", "updatestreams/status") is taken only where CEL says `allowed`."""
    name = f"refuse-{resource.replace('/', '-')}-{namespace}"
    rule = {
        "apiGroups": ["enrichment.dev"],
        "apiVersions": ["*"],
        "operations": list(operations),
        "resources": [resource],
    }
    validation = {"expression": allowed, "message": "refused by a test's policy"} | (
        {"reason": reason} if reason else {}
    )
    # That it acts is seen by a probe, which it refuses too.
    probe = {"expression": "!has(object.metadata.labels) || !('probe' in object.metadata.labels)"}
    labels = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    everything = {
        "matchConstraints": {"resourceRules": [rule, labels]},
        "validations": [
            {**validation, "expression": f"object.kind == 'ConfigMap' || ({allowed})"},
            {**probe, "expression": f"object.kind != 'ConfigMap' || ({probe['expression']})"},
        ],
    }
    scope = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": scope}
    parts = (("validatingadmissionpolicies", everything), ("validatingadmissionpolicybindings", binding))
    try:
        for plural, spec in parts:
            kube.call("POST", f"{_GROUP}/{plural}", {"metadata": {"name": name}, "spec": spec})
        eventually(lambda: not _probed(kube, namespace), 20)
        yield
    finally:
        for plural, _ in reversed(parts):
            kube.client.delete(f"{_GROUP}/{plural}/{name}")
        eventually(lambda: _probed(kube, namespace), 20)


def _probed(kube: Kube, namespace: str) -> bool:
    """Whether a ConfigMap with the label `probe` would be taken."""
    body: dict[str, Any] = {"metadata": {"name": "probe", "labels": {"probe": ""}}}
    path = f"/api/v1/namespaces/{namespace}/configmaps?dryRun=All"
    return kube.client.post(path, json=body).is_success
