"""What each account may do, by the API server's own word: all that it needs, and nothing that would hurt."""

from __future__ import annotations

import pytest

from tests.support.kube import Kube

#: Account, verbs, resource.
ALLOWED = [
    # To patch: the annotation of the adoption alone, by a policy (test_admission.py).
    ("bridge", "get list watch patch", "updatestreams.enrichment.dev"),
    ("bridge", "patch", "updatestreams.enrichment.dev/status"),
    ("bridge", "create ingest get list watch", "userupdates.enrichment.dev"),
    ("bridge", "create list watch patch delete", "rejectedevents.enrichment.dev"),
    ("bridge", "create get list watch patch delete", "userbacklogs.enrichment.dev"),
    ("bridge", "get", "secrets"),
    ("bridge", "list", "leases.coordination.k8s.io"),
    ("bridge", "create", "events.events.k8s.io"),
    ("controller", "get list watch patch", "updatestreams.enrichment.dev"),
    ("controller", "patch", "updatestreams.enrichment.dev/status"),
    ("controller", "get list watch patch delete", "userupdates.enrichment.dev"),
    ("controller", "patch", "userupdates.enrichment.dev/status"),
    ("controller", "list", "userbacklogs.enrichment.dev"),
    ("controller", "get list watch create update delete", "leases.coordination.k8s.io"),
    ("controller", "get", "secrets"),
    ("controller", "create", "events.events.k8s.io"),
]
DENIED = [
    ("bridge", "get update", "rejectedevents.enrichment.dev"),
    ("bridge", "patch", "events.events.k8s.io"),
    ("controller", "patch deletecollection", "leases.coordination.k8s.io"),
    ("bridge", "update patch delete deletecollection", "userupdates.enrichment.dev"),
    ("bridge", "update patch", "userupdates.enrichment.dev/status"),
    ("bridge", "create update delete", "updatestreams.enrichment.dev"),
    ("bridge", "get watch create update patch delete", "leases.coordination.k8s.io"),
    ("bridge", "list watch create update", "secrets"),
    ("controller", "create ingest update deletecollection", "userupdates.enrichment.dev"),
    ("controller", "create update delete", "updatestreams.enrichment.dev"),
    ("controller", "get create update patch delete", "userbacklogs.enrichment.dev"),
    ("controller", "list watch create update", "secrets"),
    ("controller", "list watch", "customresourcedefinitions.apiextensions.k8s.io"),
]


def may(kube: Kube, account: str, verb: str, resource: str, namespace: str = "default") -> bool:
    """In that namespace; without one in all of them."""
    name, _, subresource = resource.partition("/")
    name, _, group = name.partition(".")
    attributes = {"verb": verb, "group": group, "resource": name, "subresource": subresource, "namespace": namespace}
    spec = {"user": f"system:serviceaccount:enrichment-system:{account}", "resourceAttributes": attributes}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    return bool(kube.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"])


def matrix(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    return [(account, verb, resource) for account, verbs, resource in rows for verb in verbs.split()]


@pytest.mark.parametrize(("account", "verb", "resource"), matrix(ALLOWED))
def test_an_account_may(kube: Kube, account: str, verb: str, resource: str) -> None:
    assert may(kube, account, verb, resource)


@pytest.mark.parametrize(("account", "verb", "resource"), matrix(DENIED))
def test_an_account_may_not(kube: Kube, account: str, verb: str, resource: str) -> None:
    assert not may(kube, account, verb, resource)
