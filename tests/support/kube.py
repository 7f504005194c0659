"""The API server as tests see it: synchronous calls with the rights of a given kubeconfig."""

from __future__ import annotations

import base64
import re
import ssl
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.eventually import eventually

GROUP = "/apis/enrichment.dev/v1alpha1"
PLURALS = ("updatestreams", "userupdates", "rejectedevents", "userbacklogs")
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


@dataclass(frozen=True, slots=True)
class Kube:
    """A client of one API server. Paths are full (`/api/v1/namespaces`), or those of our kinds by `path`."""

    client: httpx.Client
    _context: ssl.SSLContext

    @classmethod
    def connect(cls, kubeconfig: Path) -> Kube:
        """Connect as the kubeconfig's current user."""
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        authority = base64.b64decode(cluster.get("certificate-authority-data", "")).decode() or None
        context = ssl.create_default_context(cafile=cluster.get("certificate-authority"), cadata=authority)
        if "client-certificate-data" in user:
            pair = [kubeconfig.with_name(f".{kubeconfig.name}.{part}") for part in ("certificate", "key")]
            for path, part in zip(pair, ("certificate", "key"), strict=True):
                path.write_bytes(base64.b64decode(user[f"client-{part}-data"]))
            context.load_cert_chain(pair[0], pair[1])
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        client = httpx.Client(base_url=cluster["server"], verify=context, headers=headers, timeout=30, trust_env=False)
        return cls(client, context)

    def trust_too(self, authority: Path) -> None:
        """Trust another authority as well, after the first one was rotated."""
        self._context.load_verify_locations(cafile=authority)

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The JSON of an answer; AssertionError with the server's message unless it is 2xx."""
        ask = partial(self._unless_filling_caches, method, path, json=body, **options)
        answer = eventually(ask, every=0.2, not_yet=(AssertionError,))
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def _unless_filling_caches(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self.client.request(method, path, **options)
        starting = answer.status_code == 429 and "initializing" in answer.text
        assert not starting, f"{method} {path}: {answer.text}"
        return answer

    def path(self, namespace: str, plural: str, name: str = "") -> str:
        """The path of objects of ours."""
        return f"{GROUP}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")

    def requests(self, plural: str) -> Counter[tuple[str, str]]:
        """Requests for objects of a kind so far, by verb and status code, as the API server counts them."""
        counts: Counter[tuple[str, str]] = Counter()
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith("apiserver_request_total{") and f'resource="{plural}"' in line:
                labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
                counts[labels["verb"], labels["code"]] += int(float(line.rsplit(" ", 1)[1]))
        return counts

    def list(self, namespace: str, plural: str, **query: str) -> list[dict[str, Any]]:
        """All objects of a kind of ours, by name. Query: fieldSelector, labelSelector."""
        found = self.call("GET", self.path(namespace, plural), params=query)["items"]
        return sorted(found, key=lambda item: item["metadata"]["name"])

    def get(self, namespace: str, plural: str, name: str) -> dict[str, Any]:
        """One object."""
        return dict(self.call("GET", self.path(namespace, plural, name)))

    def create(self, namespace: str, plural: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object; `kind` and `apiVersion` are filled in by the server from the path where they miss."""
        kinds = dict(zip(PLURALS, ("UpdateStream", "UserUpdate", "RejectedEvent", "UserBacklog"), strict=True))
        whole = {"apiVersion": "enrichment.dev/v1alpha1", "kind": kinds[plural], **body}
        return dict(self.call("POST", self.path(namespace, plural), whole))

    def patch(self, namespace: str, plural: str, name: str, body: dict[str, Any], *, status: bool = False) -> Any:
        """A JSON merge patch, of the status where asked for."""
        path = self.path(namespace, plural, name) + ("/status" if status else "")
        return self.call("PATCH", path, body, headers=MERGE_PATCH)

    def delete(self, namespace: str, plural: str, name: str) -> None:
        """Delete one object."""
        self.call("DELETE", self.path(namespace, plural, name))

    def empty(self, namespace: str) -> None:
        """Remove all objects of ours and the Leases from a namespace, whatever their finalizers say."""
        for plural in PLURALS:
            for item in self.list(namespace, plural):
                if item["metadata"].get("finalizers"):
                    path = self.path(namespace, plural, item["metadata"]["name"])
                    self.client.patch(path, json={"metadata": {"finalizers": None}}, headers=MERGE_PATCH)
            # Ten thousand and more after a flood.
            self.call("DELETE", self.path(namespace, plural), timeout=120)
        self.call("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
