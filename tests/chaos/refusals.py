"""The API server refuses writes of one kind for a while: by an admission policy, or by a webhook that is really called.

The answers are 403, 413 and 422 of a policy, by its reason, and 400 of a webhook that names no code.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import trustme
from aiohttp import web

from controller import errors
from controller.clients.cluster import Cluster, Resource
from devenv import broker
from devenv.errors import CommandFailed
from devenv.layout import HOST
from tests.chaos.schedule import WEBHOOK

#: API group, resource and operations that are refused, by the name of the fault's target (`schedule.REFUSED`).
TARGETS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "updates": ("enrichment.dev", "userupdates", ("CREATE",)),
    "checkpoints": ("enrichment.dev", "userupdates/status", ("UPDATE",)),
    "rejections": ("enrichment.dev", "rejectedevents", ("CREATE", "UPDATE")),
    "backlogs": ("enrichment.dev", "userbacklogs", ("CREATE", "UPDATE", "DELETE")),
    "positions": ("enrichment.dev", "updatestreams/status", ("UPDATE",)),
    "leases": ("coordination.k8s.io", "leases", ("CREATE", "UPDATE")),
}

#: What the run itself does, as an administrator, is let through.
_NOT_OURS = {"name": "bridge-or-controller", "expression": '!("system:masters" in request.userInfo.groups)'}
_GROUP = "admissionregistration.k8s.io"
_POLICIES = Resource(_GROUP, "v1", "validatingadmissionpolicies")
_BINDINGS = Resource(_GROUP, "v1", "validatingadmissionpolicybindings")
_WEBHOOKS = Resource(_GROUP, "v1", "validatingwebhookconfigurations")
_RETRY_SECONDS = 0.3


@contextlib.asynccontextmanager
async def refused(cluster: Cluster, namespace: str, target: str, by: str, port: int) -> AsyncIterator[None]:
    """Until the block is left. `by` is one of `schedule.REFUSERS`, `port` where the webhook listens.

    It acts a moment after it was made, and for a moment after it is gone: the API server looks at a cache of its own.
    """
    name = f"chaos-{target}-{namespace}"
    async with contextlib.AsyncExitStack() as stack:
        if by == WEBHOOK:
            authority = await stack.enter_async_context(_webhook(port))
            made = [(_WEBHOOKS, _webhook_body(namespace, target, authority, port))]
        else:
            made = [(_POLICIES, _policy(target, by)), (_BINDINGS, _binding(name, namespace))]
        for resource, body in made:
            await _create(cluster, resource, {"metadata": {"name": name}, **body})
            stack.push_async_callback(_remove, cluster, resource, name)
        yield


@contextlib.asynccontextmanager
async def commits_refused(bootstrap_servers: str) -> AsyncIterator[None]:
    """The group's coordinator accepts none until the block is left. Kafka may be away when that begins or ends."""
    await _configure(bootstrap_servers, True)
    try:
        yield
    finally:
        await _configure(bootstrap_servers, False)


async def _configure(bootstrap_servers: str, refused: bool) -> None:
    await _insist(lambda: asyncio.to_thread(broker.refuse_commits, bootstrap_servers, refused), (), CommandFailed)


def _rules(target: str) -> list[dict[str, Any]]:
    group, plural, operations = TARGETS[target]
    return [{"apiGroups": [group], "apiVersions": ["*"], "operations": list(operations), "resources": [plural]}]


def _policy(target: str, reason: str) -> dict[str, Any]:
    validation = {"expression": "false", "message": "chaos refuses this", **({"reason": reason} if reason else {})}
    spec = {"matchConstraints": {"resourceRules": _rules(target)}, "matchConditions": [_NOT_OURS]}
    return {"spec": {**spec, "validations": [validation]}}


def _binding(name: str, namespace: str) -> dict[str, Any]:
    scope = {"namespaceSelector": _selector(namespace)}
    return {"spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": scope}}


def _webhook_body(namespace: str, target: str, authority: bytes, port: int) -> dict[str, Any]:
    client = {"url": f"https://{HOST}:{port}/", "caBundle": base64.b64encode(authority).decode()}
    hook = {
        "name": "chaos.enrichment.dev",
        "clientConfig": client,
        "rules": _rules(target),
        "namespaceSelector": _selector(namespace),
        "matchConditions": [_NOT_OURS],
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "timeoutSeconds": 5,
    }
    return {"webhooks": [hook]}


def _selector(namespace: str) -> dict[str, Any]:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


@contextlib.asynccontextmanager
async def _webhook(port: int) -> AsyncIterator[bytes]:
    """A server that allows nothing and gives no code, which makes it a 400; the certificate of its authority."""

    async def refuse(request: web.Request) -> web.Response:
        review = await request.json()
        answer = {"uid": review["request"]["uid"], "allowed": False, "status": {"message": "chaos refuses this"}}
        return web.json_response({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": answer})

    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    app = web.Application()
    app.add_routes([web.post("/", refuse)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port, ssl_context=context, reuse_address=True).start()
        yield authority.cert_pem.bytes()
    finally:
        await runner.cleanup()


async def _create(cluster: Cluster, resource: Resource, body: dict[str, Any]) -> None:
    await _insist(lambda: cluster.create(resource, "", body), errors.AlreadyExists, errors.ApiError)


async def _remove(cluster: Cluster, resource: Resource, name: str) -> None:
    await _insist(lambda: cluster.delete(resource, "", name), errors.NotFound, errors.ApiError)


async def _insist(
    act: Callable[[], Awaitable[object]], done: type[Exception] | tuple[()], fails: type[Exception]
) -> None:
    """Until it has worked, or `done` says that it had before. The API server or Kafka may be away."""
    while True:
        try:
            await act()
            return
        except done:
            return
        except fails:
            await asyncio.sleep(_RETRY_SECONDS)
