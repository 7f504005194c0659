"""The Kubernetes API: JSON in, JSON out, over aiohttp's connections.

`access` gets the address, the credentials and the certificate authority from the Kubernetes client package. The
package's generated calls are not used: they cost 0.75 to 0.95 ms of CPU a request, aiohttp with orjson 0.3 ms
(docs/decisions/0001-kubernetes-client.md).
"""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiohttp
import orjson
from yarl import URL

from controller import errors
from controller.api import names
from controller.clients import access
from controller.clients.access import Access, Trust
from controller.clients.outages import Outage

Body: TypeAlias = dict[str, Any]

#: Seconds for a whole request, and for its connection. A Lease is renewed within less.
REQUEST_TIMEOUT = 30.0
CONNECT_TIMEOUT = 5.0
#: Connections for requests that neither create nor change objects.
ASIDE_CONNECTIONS = 80
#: Bytes. A single event of a watch may be longer than aiohttp's own buffer.
READ_BUFFER = 2**21
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
#: A watch answers with single objects, a list with a list of them.
METADATA_ONLY_WATCH = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
#: The API server sends a bookmark each minute: a silence longer than this is a dead connection.
WATCH_SILENCE_SECONDS = 75.0


@dataclass(frozen=True, slots=True)
class Resource:
    """A namespaced resource of the API."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if namespace else ""
        quoted = urllib.parse.quote(name, safe="") if name else None
        return "/".join(filter(None, (f"{root}{scope}/{self.plural}", quoted, subresource)))


UPDATES = Resource(names.GROUP, names.VERSION, "userupdates")
STREAMS = Resource(names.GROUP, names.VERSION, "updatestreams")
REJECTED = Resource(names.GROUP, names.VERSION, "rejectedevents")
BACKLOGS = Resource(names.GROUP, names.VERSION, "userbacklogs")
LEASES = Resource("coordination.k8s.io", "v1", "leases")
_LEASES_PATH = f"/apis/{LEASES.group}/"
SECRETS = Resource("", "v1", "secrets")
EVENTS = Resource("events.k8s.io", "v1", "events")


@dataclass(frozen=True, slots=True)
class Listing:
    """A consistent list: an object that is not in it did not exist, or did not match, at that version."""

    items: list[Body]
    resource_version: int


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """An event of type ADDED, MODIFIED, DELETED or BOOKMARK. A bookmark's object has only its version."""

    type: str
    object: Body

    @property
    def resource_version(self) -> int:
        return int(self.object["metadata"]["resourceVersion"])


class Cluster:
    """One API server, over several pools of connections. Every call raises ApiError: see `controller.errors`."""

    def __init__(self, access: Access, connections: int) -> None:
        self._access = access
        self._outage = Outage()
        # Leases have connections of their own: a renewal must not queue behind the writes that it guards. Watches have
        # some because they hold theirs for good, and one process may have more watches than a pool has connections.
        # Reads and deletes have some because they must not wait behind a flood's writes: finished updates piled up.
        self._writes, self._leases = _session(connections), _session(connections)
        self._aside, self._watches = _session(ASIDE_CONNECTIONS), _session(0)

    @classmethod
    @asynccontextmanager
    async def connect(cls, connections: int = 64) -> AsyncIterator[Cluster]:
        """Connect by KUBECONFIG or the in-cluster files, with at most `connections` connections for writes.

        Raises ConfigError where neither is there or usable.
        """
        cluster = cls(await access.find(), connections)
        try:
            yield cluster
        finally:
            for session in (cluster._writes, cluster._leases, cluster._aside, cluster._watches):
                await session.close()

    @property
    def trust(self) -> Trust:
        """Whether the API server's certificate is trusted."""
        return self._access.trust

    async def get(self, resource: Resource, namespace: str, name: str, *, timeout: float = REQUEST_TIMEOUT) -> Body:
        return await self._call("GET", resource.path(namespace, name), timeout=timeout)

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        field_selector: str = "",
        label_selector: str = "",
        metadata_only: bool = False,
        page: int = 500,
    ) -> Listing:
        """A consistent list, in pages of `page` objects; of all namespaces where none is given.

        Starts anew where etcd has compacted the version that the pages are read at.
        """
        while True:
            items: list[Body] = []
            version = 0
            pages = self.pages(
                resource,
                namespace,
                field_selector=field_selector,
                label_selector=label_selector,
                metadata_only=metadata_only,
                page=page,
            )
            try:
                async for listing in pages:
                    items += listing.items
                    version = listing.resource_version
            except errors.Expired:
                if not items:
                    raise
            else:
                return Listing(items, version)

    async def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        field_selector: str = "",
        label_selector: str = "",
        metadata_only: bool = False,
        page: int = 500,
    ) -> AsyncIterator[Listing]:
        """The same page by page, for lists that need not be in memory as a whole. Raises Expired if it is too slow."""
        query = _selectors(field_selector, label_selector) | {"limit": str(page)}
        accept = METADATA_ONLY if metadata_only else None
        while True:
            body = await self._call("GET", resource.path(namespace), query=query, accept=accept)
            items = body["items"] or []  # null where there is none, for metadata only
            yield Listing(items, int(body["metadata"]["resourceVersion"]))
            if not (token := body["metadata"].get("continue")):
                return
            query["continue"] = token

    async def served(self, group: str, version: str) -> set[str]:
        """The plurals of the kinds that the API server serves in a group; none where it does not know the group."""
        try:
            body = await self._call("GET", f"/apis/{group}/{version}")
        except errors.ApiError as error:
            if error.status == 404:
                return set()
            raise
        return {resource["name"] for resource in body["resources"]}

    async def create(
        self, resource: Resource, namespace: str, manifest: Mapping[str, Any], *, timeout: float = REQUEST_TIMEOUT
    ) -> Body:
        return await self._call("POST", resource.path(namespace), manifest, timeout=timeout)

    async def replace(
        self, resource: Resource, namespace: str, name: str, body: Body, *, timeout: float = REQUEST_TIMEOUT
    ) -> Body:
        return await self._call("PUT", resource.path(namespace, name), body, timeout=timeout)

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Mapping[str, Any]) -> Body:
        """A merge patch. With `metadata.resourceVersion` in it, it raises Conflict where the object has changed."""
        return await self._call("PATCH", resource.path(namespace, name), patch)

    async def patch_status(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        status: Mapping[str, Any],
        resource_version: int | None = None,
    ) -> Body:
        """A merge patch of the status. With a version, it raises Conflict where the object has changed."""
        metadata = {"resourceVersion": str(resource_version)} if resource_version is not None else {}
        patch = {"metadata": metadata, "status": status}
        return await self._call("PATCH", resource.path(namespace, name, "status"), patch)

    async def delete(
        self, resource: Resource, namespace: str, name: str, uid: str | None = None, version: int | None = None
    ) -> Body:
        """Delete the object; with `uid` and `version` only that object in that version, else it raises Conflict."""
        conditions = {"uid": uid, "resourceVersion": str(version) if version is not None else None}
        wanted = {key: value for key, value in conditions.items() if value}
        options = {"preconditions": wanted} if wanted else None
        return await self._call("DELETE", resource.path(namespace, name), options)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: int,
        field_selector: str = "",
        label_selector: str = "",
        metadata_only: bool = False,
    ) -> AsyncIterator[WatchEvent]:
        """The changes since `resource_version`, bookmarks included, until the API server ends the connection.

        Raises Expired where that version is too old.
        """
        query = _selectors(field_selector, label_selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(resource_version),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=WATCH_SILENCE_SECONDS)
        accept = METADATA_ONLY_WATCH if metadata_only else None
        async with self._open("GET", resource.path(namespace), None, query, accept, timeout) as response:
            async for line in _lines(response):
                event = orjson.loads(line)
                if event["type"] == "ERROR":
                    raise _error(event["object"].get("code", 500), event["object"], None)
                yield WatchEvent(event["type"], event["object"])

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: dict[str, str] | None = None,
        accept: str | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> Body:
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_TIMEOUT, timeout))
        async with self._open(method, path, body, query, accept, limits) as response:
            answer: Body = orjson.loads(await response.read())
            return answer

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: dict[str, str] | None,
        accept: str | None,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        data = None if body is None else orjson.dumps(body)
        try:
            credentials = await self._access.headers()
        except Exception as error:  # files that are being replaced right now, an exec plug-in that fails
            raise errors.Unavailable(f"{method} {path}: credentials cannot be read: {error!r}") from error
        try:
            headers = {"Accept": accept or "application/json"} | credentials
            if body is not None:
                headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
            async with self._session(method, path, query).request(
                method,
                URL(self._access.host + path, encoded=True),  # it is: quoting it again would cost more than sending it
                params=query,
                data=data,
                headers=headers,
                timeout=timeout,
                proxy=self._access.proxy,
                ssl=self._access.tls,
            ) as response:
                self.trust.answered()
                self._outage.answered()
                if response.status >= 300:
                    if response.status == 401:
                        self._access.refused()
                    raise _error(response.status, _parsed(await response.read()), response.headers.get("Retry-After"))
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError, ValueError) as error:
            # uvloop raises RuntimeError for a connection that breaks off while it is being made. A ValueError is an
            # answer that is not JSON.
            self.trust.failed(error)
            cause = _cause(error)
            self._outage.unanswered(cause)
            raise errors.Unavailable(f"{method} {path}: {cause}") from error

    def _session(self, method: str, path: str, query: Mapping[str, str] | None) -> aiohttp.ClientSession:
        if path.startswith(_LEASES_PATH):
            return self._leases
        if query and "watch" in query:
            return self._watches
        return self._aside if method in ("GET", "DELETE") else self._writes


def _cause(error: Exception) -> str:
    """The cause, for people. aiohttp's own message for a refused connection shows the TLS context's repr."""
    if type(error) in (aiohttp.ClientConnectorError, aiohttp.ClientConnectorDNSError):
        assert isinstance(error, aiohttp.ClientConnectorError)
        return f"no connection to {error.host}:{error.port}: {error.os_error.strerror or error.os_error}"
    return str(error) or type(error).__name__


def object_key(body: Body) -> tuple[str, str]:
    """Namespace and name, as client-go's MetaNamespaceKeyFunc."""
    return body["metadata"]["namespace"], body["metadata"]["name"]


def _session(connections: int) -> aiohttp.ClientSession:
    """A pool of at most that many `connections`; 0: no limit. Each request passes its TLS context, which may change."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), trust_env=False, read_bufsize=READ_BUFFER
    )


def _selectors(field_selector: str, label_selector: str) -> dict[str, str]:
    pairs = {"fieldSelector": field_selector, "labelSelector": label_selector}
    return {key: value for key, value in pairs.items() if value}


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length: aiohttp's own reader refuses lines longer than its buffer."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _parsed(raw: bytes) -> Body:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    return body if isinstance(body, dict) else {"message": raw[:200].decode(errors="replace")}


_BY_STATUS: dict[int, type[errors.ApiError]] = {
    **dict.fromkeys((400, 413, 422), errors.Invalid),
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    410: errors.Expired,
}


def _error(status: int, body: Body, retry_after: str | None) -> errors.ApiError:
    reason = body.get("reason") or ""
    details = body.get("details") or {}
    kind = _BY_STATUS.get(status, errors.Unavailable)
    if reason == "AlreadyExists" and details.get("name"):  # a webhook may give this reason too, without an object
        kind = errors.AlreadyExists
    if kind is errors.NotFound and reason != "NotFound":
        kind = errors.Unavailable  # the path is unknown: a server that is starting does not serve our kinds yet
    if status == 500 and "etcdserver: request is too large" in str(body.get("message")):
        kind = errors.Invalid  # etcd refuses, and the API server reports that as its own error
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
    message = body.get("message") or f"the API server answered {status}"
    return kind(message, status=status, reason=reason, retry_after=seconds)
