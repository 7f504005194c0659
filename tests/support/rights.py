"""The rights of the two accounts one by one, as the manifests grant them, and the API server's log of refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from devenv import apiserver, kubectl, lifecycle
from devenv.environment import Environment
from devenv.processes import Command
from devenv.sources import Sources
from tests.support import workers
from tests.support.kube import Kube


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one resource, `userupdates/status` being one of its own."""

    account: str
    verb: str
    resource: str
    #: In the accounts' own namespace alone.
    own: bool = False

    def __str__(self) -> str:
        return f"{self.account}-{self.verb}-{'own-' * self.own}{self.resource.replace('/', '-')}"

    @property
    def path(self) -> str:
        """Of the role that grants it."""
        namespace = f"/namespaces/{apiserver.NAMESPACE}/roles" if self.own else "/clusterroles"
        return f"/apis/rbac.authorization.k8s.io/v1{namespace}/enrichment-{self.account}"


def granted() -> list[Right]:
    """All rights of both accounts."""
    found = []
    for document in yaml.safe_load_all(kubectl.RBAC.read_text()):
        if document["kind"] in ("ClusterRole", "Role"):
            account, own = document["metadata"]["name"].removeprefix("enrichment-"), document["kind"] == "Role"
            for rule in document["rules"]:
                found += [Right(account, verb, name, own) for name in rule["resources"] for verb in rule["verbs"]]
    return found


class AuditedEnvironment(Environment):
    """An API server of its own, which writes down each request of the two accounts and what became of it."""

    def command(self, name: str) -> Command:
        command = super().command(name)
        if name != "apiserver":
            return command
        users = [f"system:serviceaccount:{apiserver.NAMESPACE}:{account}" for account in apiserver.ACCOUNTS]
        rules = [{"level": "Metadata", "users": users, "omitStages": ["RequestReceived"]}, {"level": "None"}]
        policy = self.layout.etc / "audit.json"
        policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        flags = (f"--audit-policy-file={policy}", f"--audit-log-path={self.audit}")
        return replace(command, argv=(*command.argv, *flags))

    @property
    def audit(self) -> Path:
        return self.layout.run / "audit.jsonl"

    def refused(self, since: int, but_in: str = "") -> set[Right]:
        """What was asked for, but in that namespace, and answered 403, after so many bytes of the log."""
        with self.audit.open("rb") as file:
            file.seek(since)
            # The API server may be in the middle of a line, which the next look then sees whole.
            written, _, _ = file.read().rpartition(b"\n")
        events = [json.loads(line) for line in written.splitlines()]
        refused = [event for event in events if event["responseStatus"]["code"] == 403]
        return {_right(event) for event in refused if event["objectRef"].get("namespace", "*") != but_in}

    def begin(self) -> Kube:
        """Start what the two processes need, but Kafka."""
        apiserver.account_tokens(self.layout)
        for name in ("etcd", "apiserver", "downstream"):
            self.start(name)
        apiserver.write_kubeconfigs(self.layout, self.ports)
        kubectl.install(self.kubectl)
        return Kube.connect(self.kubeconfig)


@contextmanager
def audited_environment(sources: Sources, name: str) -> Iterator[tuple[AuditedEnvironment, Kube]]:
    """An API server with a log of its own, in a temporary directory; Kafka is that of `sources`."""
    directory = workers.directory(name)
    own = AuditedEnvironment(directory)
    own.sources = sources
    try:
        kube = own.begin()
        with kube.client:
            yield own, kube
    finally:
        lifecycle.down(own)
        shutil.rmtree(directory, ignore_errors=True)


def _right(event: dict[str, Any]) -> Right:
    where = event["objectRef"]
    resource = "/".join(filter(None, (where["resource"], where.get("subresource"))))
    # A policy refuses what the rights to a request alone allow: its message names the right that is missing.
    verb = "ingest" if "the right to ingest" in event["responseStatus"].get("message", "") else event["verb"]
    right = Right(event["user"]["username"].rpartition(":")[2], verb, resource)
    own = replace(right, own=True)
    return own if where.get("namespace") == apiserver.NAMESPACE and own in granted() else right


@contextmanager
def taken_away(kube: Kube, right: Right) -> Iterator[None]:
    """The role without that right; given back at the end."""
    path = right.path
    whole = kube.call("GET", path)["rules"]
    less = [
        {
            **rule,
            "verbs": [verb for verb in rule["verbs"] if (verb, rule["resources"]) != (right.verb, [right.resource])],
        }
        for rule in whole
    ]
    _set(kube, path, [rule for rule in less if rule["verbs"]])
    try:
        yield
    finally:
        _set(kube, path, whole)


def _set(kube: Kube, path: str, rules: list[dict[str, Any]]) -> None:
    kube.call("PATCH", path, {"rules": rules}, headers={"Content-Type": "application/merge-patch+json"})
