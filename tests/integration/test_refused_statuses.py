"""The API server refuses to write what became of an update: told of, waited for, and nobody else waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.eventually import eventually
from tests.processing import Processing, steps, whole

pytestmark = [pytest.mark.timeout(90), pytest.mark.usefixtures("controller")]

GROUP = "/apis/admissionregistration.k8s.io/v1"


@contextmanager
def refused(stream: Processing, name: str) -> Iterator[None]:
    """No status of that update may be written."""
    policy = f"no-status-{stream.namespace}"
    rule = {
        "apiGroups": ["enrichment.dev"],
        "apiVersions": ["*"],
        "operations": ["UPDATE"],
        "resources": ["userupdates/status"],
    }
    parts = {
        "validatingadmissionpolicies": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [
                {"expression": f"object.metadata.name != '{name}'", "message": "not that one", "reason": "Forbidden"}
            ],
        },
        "validatingadmissionpolicybindings": {
            "policyName": policy,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": stream.namespace}}},
        },
    }
    for plural, spec in parts.items():
        stream.kube.call("POST", f"{GROUP}/{plural}", {"metadata": {"name": policy}, "spec": spec})
    try:
        yield
    finally:
        for plural in reversed(parts):
            stream.kube.call("DELETE", f"{GROUP}/{plural}/{policy}")


def test_a_refused_status_is_told_of_and_written_once_it_may_be(stream: Processing) -> None:
    name = "ana-1"
    with refused(stream, name):
        stream.add("ana", 1)
        path = stream.kube.path(stream.namespace, "userupdates", name) + "/status?dryRun=All"
        probe = {"status": {"attempts": 1}}
        headers = {"Content-Type": "application/merge-patch+json"}
        eventually(lambda: stream.kube.client.patch(path, json=probe, headers=headers).status_code == 403, 20)
        stream.apply()

        def told() -> bool:
            condition = stream.condition()
            assert condition.get("reason") == "StatusRefused", condition
            return f"{name} (" in condition["message"] and "not that one" in condition["message"]

        eventually(told)
        stream.until(stream.add("bo", 1), "Succeeded")
        assert len(stream.calls("ana")) == 1
    stream.until(name, "Succeeded")
    assert steps(stream.calls("ana")) == whole("ana", 1), "what was answered was not asked for again"
    eventually(lambda: stream.condition().get("reason") == "Processing")
