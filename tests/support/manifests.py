"""A manifest of each kind, and an Applier that applies it with changes to a real API server."""

from __future__ import annotations

import json
from typing import Any

import httpx
import yaml

from devenv.kubectl import Kubectl
from tests.support.kube import Kube
from tests.support.records import TOPIC_ID

STREAM = """
apiVersion: enrichment.dev/v1alpha1
kind: UpdateStream
metadata: {name: user-updates}
spec:
  kafka: {bootstrapServers: '127.0.0.1:9092', topic: user-updates, groupId: user-updates}
  steps:
    profile:     {url: 'http://127.0.0.1:8080/profile'}
    permissions: {url: 'http://127.0.0.1:8080/permissions'}
    resources:   {url: 'http://127.0.0.1:8080/resources'}
"""
UPDATE = """
apiVersion: enrichment.dev/v1alpha1
kind: UserUpdate
metadata: {name: by-hand}
spec: {stream: user-updates, user: userid1, sequence: 1, profile: dev, permissions: all, resources: all}
"""
SOURCE = {
    "topic": "user-updates",
    "topicId": TOPIC_ID,
    "partition": 0,
    "offset": 42,
    "timestamp": "2026-01-01T00:00:00.123000Z",
}
REJECTED = f"""
apiVersion: enrichment.dev/v1alpha1
kind: RejectedEvent
metadata: {{name: rejected}}
spec:
  {{stream: user-updates, reason: NotJSON, key: YW5h, size: 9, count: 1,
   source: {json.dumps(SOURCE | {"lastOffset": 42})}}}
"""
BACKLOG = f"""
apiVersion: enrichment.dev/v1alpha1
kind: UserBacklog
metadata: {{name: backlog}}
spec:
  stream: user-updates
  user: userid1
  partitions: [{{topicId: {TOPIC_ID}, partition: 0, offsets: '7 1 1', count: 3, first: 7, last: 9}}]
"""
#: In a change: the field is taken away.
ABSENT = object()


def changed(manifest: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The manifest with some fields set, by paths such as `spec.kafka.topic`."""
    body: dict[str, Any] = yaml.safe_load(manifest)
    for path, value in changes.items():
        *parents, name = path.split(".")
        node = body
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is ABSENT:
            node.pop(name, None)
        else:
            node[name] = value
    return body


class Refused(Exception):
    """The API server's refusal, in the words that kubectl shows."""


class Applier:
    """Applies objects of our kinds in one namespace, and runs kubectl there."""

    def __init__(self, kube: Kube, kubectl: Kubectl, namespace: str) -> None:
        self._kube = kube
        self._kubectl = kubectl
        self._namespace = namespace

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        return self._kubectl("--namespace", self._namespace, *arguments, stdin=stdin)

    def apply(self, manifest: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the API server made of it. Raises Refused."""
        body = changed(manifest, changes or {})
        query = {"fieldManager": "test", "force": "true", "fieldValidation": "Strict"}
        return self._patch(_plural(body), body["metadata"]["name"], "apply-patch+yaml", body, query)

    def tried(self, manifest: str, changes: dict[str, Any]) -> dict[str, Any]:
        """What it would make of it as a new object, without doing it. Raises Refused."""
        body = changed(manifest, changes)
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        path = self._kube.path(self._namespace, _plural(body))
        return self._answer(self._kube.client.post(path, json=body, params=query))

    def status(self, plural: str, name: str, status: dict[str, Any]) -> None:
        self._patch(plural, f"{name}/status", "merge-patch+json", {"status": status}, {})

    def _patch(self, plural: str, name: str, media: str, body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        path = self._kube.path(self._namespace, plural, name)
        headers = {"Content-Type": f"application/{media}"}
        return self._answer(self._kube.client.patch(path, json=body, params=query, headers=headers))

    def _answer(self, answer: httpx.Response) -> dict[str, Any]:
        body: dict[str, Any] = answer.json()
        if not answer.is_success:
            raise Refused(str(body["message"]))
        return body


def _plural(body: dict[str, Any]) -> str:
    return f"{body['kind'].lower()}s"
