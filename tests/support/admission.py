"""Admission policies and a webhook that refuse objects, as real clusters have them."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import trustme

from devenv.environment import Environment
from tests.support.eventually import eventually
from tests.support.kube import Kube

GROUP = "/apis/admissionregistration.k8s.io/v1"
#: Seconds until a policy acts that was made, or acts no more: the API server compiles it in the background.
ACTS_WITHIN = 60
_SOURCE = {"topic": "t", "topicId": "A" * 22, "partition": 0, "offset": 0, "lastOffset": 0}
#: A valid object of each kind.
PROBES: dict[str, dict[str, Any]] = {
    "userupdates": {
        "kind": "UserUpdate",
        "spec": {"stream": "s", "user": "u", "sequence": 0, "profile": "p", "permissions": "p", "resources": "r"},
    },
    "rejectedevents": {
        "kind": "RejectedEvent",
        "spec": {"stream": "s", "reason": "NotJSON", "source": _SOURCE, "count": 1},
    },
    "userbacklogs": {"kind": "UserBacklog", "spec": {"stream": "s", "user": "u", "partitions": []}},
}


def asked(kube: Kube, namespace: str, plural: str, **spec: Any) -> int:
    """The status code of a create that is a dry run."""
    probe = PROBES[plural]
    body = {"apiVersion": "enrichment.dev/v1alpha1", "metadata": {"name": "probe"}, **probe}
    body["spec"] = {**probe["spec"], **spec}
    return kube.client.post(kube.path(namespace, plural) + "?dryRun=All", json=body).status_code


@contextmanager
def policy(
    kube: Kube,
    namespace: str,
    resource: str,
    allowed: str = "false",
    operations: tuple[str, ...] = ("CREATE", "UPDATE"),
    *,
    reason: str = "",
    message: str = "refused by a test's policy",
    group: str = "enrichment.dev",
) -> Iterator[None]:
    """In that namespace `resource` ("userbacklogs", "updatestreams/status") is taken only where CEL says `allowed`.

    The answer is 422 without a `reason`, else the code that belongs to it. Entered when the policy acts, and left when
    it acts no more.
    """
    name = f"refuse-{resource.replace('/', '-')}-{namespace}"
    # That it acts is seen by a probe, which it refuses too.
    probes = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    is_probe = "request.resource.resource == 'configmaps'"
    refusal = {"message": message} | ({"reason": reason} if reason else {})
    rules = {
        "matchConstraints": {"resourceRules": [_rule(resource, operations, group), probes]},
        "validations": [
            {**refusal, "expression": f"{is_probe} || ({allowed})"},
            {"expression": f"!({is_probe}) || !has(object.metadata.labels) || !('probe' in object.metadata.labels)"},
        ],
    }
    binding = {
        "policyName": name,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": _only(namespace)},
    }
    parts = (("validatingadmissionpolicies", rules), ("validatingadmissionpolicybindings", binding))
    try:
        for plural, spec in parts:
            kube.call("POST", f"{GROUP}/{plural}", {"metadata": {"name": name}, "spec": spec})
        eventually(lambda: not _probed(kube, namespace), ACTS_WITHIN)
        yield
    finally:
        for plural, _ in reversed(parts):
            kube.client.delete(f"{GROUP}/{plural}/{name}")
        eventually(lambda: _probed(kube, namespace), ACTS_WITHIN)


def _probed(kube: Kube, namespace: str) -> bool:
    """Whether a ConfigMap with the label `probe` would be taken."""
    body: dict[str, Any] = {"metadata": {"name": "probe", "labels": {"probe": ""}}}
    path = f"/api/v1/namespaces/{namespace}/configmaps?dryRun=All"
    return kube.client.post(path, json=body).is_success


@dataclass
class Webhook:
    """Judges creates of UserUpdates by `refusals`: the status to be answered, by user. Others are allowed."""

    refusals: dict[str, dict[str, Any]]

    def judge(self, review: dict[str, Any]) -> dict[str, Any]:
        request = review["request"]
        status = self.refusals.get(request["object"]["spec"]["user"])
        verdict = {"allowed": True} if status is None else {"allowed": False, "status": status}
        return {**review, "response": {"uid": request["uid"], **verdict}}


@contextmanager
def webhook(kube: Kube, namespace: str, refusals: dict[str, dict[str, Any]]) -> Iterator[Webhook]:
    """A webhook on loopback, asked for creates of UserUpdates in that namespace."""
    hook, authority = Webhook(refusals), trustme.CA()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hook))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    name = f"refuses-{namespace}"
    client = {
        "url": f"https://127.0.0.1:{server.server_address[1]}/",
        "caBundle": base64.b64encode(authority.cert_pem.bytes()).decode(),
    }
    body = {
        "name": "refuses.example.com",
        "clientConfig": client,
        "rules": [_rule("userupdates", ("CREATE",))],
        "namespaceSelector": _only(namespace),
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 5,
    }
    path = f"{GROUP}/validatingwebhookconfigurations"
    kube.call("POST", path, {"metadata": {"name": name}, "webhooks": [body]})
    try:
        refused = next(iter(refusals))
        eventually(lambda: asked(kube, namespace, "userupdates", user=refused) >= 400, 20)
        yield hook
    finally:
        kube.call("DELETE", f"{path}/{name}")
        server.shutdown()
        server.server_close()


@contextmanager
def webhooks_called(environment: Environment) -> Iterator[None]:
    """The API server calls webhooks for a while: that of the environment is tuned not to."""
    command = environment.command("apiserver")
    argv = tuple(part for part in command.argv if not part.startswith("--disable-admission-plugins="))
    changed = replace(command, argv=argv)
    environment.kill("apiserver")
    environment.processes.start(changed)
    environment.processes.wait_ready(changed)
    try:
        yield
    finally:
        environment.kill("apiserver")
        environment.start("apiserver")


def _rule(resource: str, operations: tuple[str, ...], group: str = "enrichment.dev") -> dict[str, Any]:
    return {"apiGroups": [group], "apiVersions": ["*"], "operations": list(operations), "resources": [resource]}


def _only(namespace: str) -> dict[str, Any]:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


def _handler(hook: Webhook) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(hook.judge(review)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler
