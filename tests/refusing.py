"""Who may refuse what is created: admission policies, and a webhook, as real clusters have them."""

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

from controller.devenv.environment import Environment
from tests.eventually import eventually
from tests.kube import Kube

GROUP = "/apis/admissionregistration.k8s.io/v1"
_SOURCE = {"topic": "t", "topicId": "A" * 22, "partition": 0, "offset": 0, "lastOffset": 0}
#: An object of each kind that is well but for who refuses it.
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
    """What a create that is not carried out is answered."""
    probe = PROBES[plural]
    body = {"apiVersion": "enrichment.dev/v1alpha1", "metadata": {"name": "probe"}, **probe}
    body["spec"] = {**probe["spec"], **spec}
    return kube.client.post(kube.path(namespace, plural) + "?dryRun=All", json=body).status_code


@contextmanager
def policy(
    kube: Kube,
    namespace: str,
    plural: str,
    *,
    operation: str = "CREATE",
    allows: str = "false",
    message: str = "not today",
    **reason: str,
) -> Iterator[None]:
    """A policy on what is done in that namespace; entered when it acts, if it refuses all creates.

    Where no `reason` is given it answers 422.
    """
    name = f"no-{plural}-{namespace}"
    specs = {
        "validatingadmissionpolicies": {
            "matchConstraints": {"resourceRules": [_rule(plural, operation)]},
            "validations": [{"expression": allows, "message": message, **reason}],
        },
        "validatingadmissionpolicybindings": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": _only(namespace)},
        },
    }
    before = asked(kube, namespace, plural)
    for kind, spec in specs.items():
        kube.call("POST", f"{GROUP}/{kind}", {"metadata": {"name": name}, "spec": spec})
    try:
        if allows == "false" and operation == "CREATE":
            eventually(lambda: asked(kube, namespace, plural) != before, 20)
        yield
    finally:
        for kind in reversed(specs):
            kube.call("DELETE", f"{GROUP}/{kind}/{name}")


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
        "rules": [_rule("userupdates", "CREATE")],
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


def _rule(plural: str, operation: str) -> dict[str, Any]:
    return {"apiGroups": ["enrichment.dev"], "apiVersions": ["*"], "operations": [operation], "resources": [plural]}


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
