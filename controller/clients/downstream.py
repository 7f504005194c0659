"""Calls a step over HTTP: sends a request and returns an outcome, whatever the network or the downstream does.

httpx calls over aiohttp's connections, whose pool does not get slower with the number of calls in flight
(docs/decisions/0023-calls-by-httpx.md). `core.steps` says what an answer means, the reconciler which call is made when.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp
import httpx
import orjson

from controller.api.update_stream import StepSpec
from controller.api.user_update import UserUpdate
from controller.clients.connections import (
    MAX_HEADERS,
    CertificateRefused,
    Connections,
    behind,
    on_connected,
    open_connector,
    unanswered,
    was_kept,
)
from controller.clients.tls import ClientTls
from controller.core.outcomes import Misconfigured, NotCalled, Outcome, Retry
from controller.core.steps import Step

#: Bytes of an answer that are read. The connection of a longer answer is closed.
MAX_ANSWER = 64 * 1024
#: Client certificates whose connections are kept. Each rotation adds one.
MAX_IDENTITIES = 64

#: Characters from which on an entry of a Secret, or a word of it, is removed from messages that repeat an answer.
MIN_SECRET = 6

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?\Z")
#: Decompresses gzip and zlib alike, by their headers.
_ANY_DEFLATE = 32 + zlib.MAX_WBITS


class Downstream:
    """Calls steps, for all users and streams of a process, which share its connections.

    The number of connections is not limited, so that calls that hang never keep other calls from a connection.
    """

    def __init__(
        self,
        connector: Callable[..., aiohttp.BaseConnector] | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """Must be made on the loop that calls. `connector` None connects to wherever a step's url says."""
        self._connector = connector or open_connector
        self._anonymous = Connections(self._connector, ClientTls())
        #: For calls with a client certificate; the certificate that was used last comes last.
        self._own: dict[ClientTls, Connections] = {}
        self._clock = clock or partial(datetime.now, UTC)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections, also those of calls in flight."""
        for connections in (self._anonymous, *self._own.values()):
            await connections.aclose()

    async def call(
        self,
        step: Step,
        endpoint: StepSpec,
        update: UserUpdate,
        key: str,
        headers: Mapping[str, str] | None = None,
        tls: ClientTls | None = None,
        may_repeat: Callable[[], bool] = lambda: True,
        sending: Callable[[], None] = lambda: None,
    ) -> Outcome | NotCalled:
        """Send one step of an update and read the answer, within `endpoint.timeout_seconds` altogether.

        `key` is the idempotency key. `headers` are added and replace none of the call's own. `tls` is the client
        certificate. Where a kept connection turns out to be closed before anything was answered, the call is made once
        more on a fresh one, if `may_repeat` allows it. `sending` is called as soon as there is a connection: from then
        on the request may arrive. Cancelling the call closes its connection. Raises nothing: every failure outside is
        an outcome, or NotCalled where nothing was sent.
        """
        try:
            content = orjson.dumps(step.request_body(update.spec, update.status.results))
        except KeyError as error:
            return Retry(f"{error.args[0]} is missing in the results of the steps before {step.name}")
        try:
            url = _url(endpoint.url)
            merged = _merged(headers, _headers(update, key))
        except ValueError as error:
            return NotCalled(f"{step.name} cannot be called: {error}")
        on_connected.set(sending)
        kept_back = {"secrets": _secrets(headers)}
        request = partial(httpx.Request, "POST", url, headers=merged, content=content, extensions=kept_back)
        try:
            async with asyncio.timeout(endpoint.timeout_seconds):
                with self._identified(tls) as connections:
                    return await self._call(step, connections, request, may_repeat)
        except TimeoutError:
            return Retry(f"no answer from {step.name} within {endpoint.timeout_seconds:g} s")
        except _Unusable as error:
            return NotCalled(f"{step.name} cannot be called: {error}")
        except CertificateRefused as error:
            return Misconfigured(f"{step.name} cannot be called: {error}")
        except Exception as error:
            return Retry(_cause(behind(error), step.name))

    async def _call(
        self,
        step: Step,
        connections: Connections,
        request: Callable[[], httpx.Request],
        may_repeat: Callable[[], bool],
    ) -> Outcome:
        """Raises the error that kept an answer from coming; CertificateRefused for a client certificate."""
        was_kept.set(False)
        try:
            return await self._exchange(step, connections.kept, request())
        except Exception as error:
            if not (was_kept.get() and unanswered(error) and may_repeat()):
                await connections.check_wanted(error, request().url, kept=was_kept.get())
                raise
        try:
            return await self._exchange(step, connections.fresh, request())
        except Exception as error:
            await connections.check_wanted(error, request().url, kept=False)
            raise

    @contextmanager
    def _identified(self, tls: ClientTls | None) -> Iterator[Connections]:
        """The connections for that client certificate. Raises _Unusable."""
        if tls is None:
            yield self._anonymous
            return
        own = self._own.pop(tls, None)
        if own is None:
            try:
                own = Connections(self._connector, tls)
            except ValueError as error:
                raise _Unusable(str(error)) from error
        self._own[tls] = own
        own.calls += 1
        try:
            yield own
        finally:
            own.calls -= 1
            self._drop_idle()

    def _drop_idle(self) -> None:
        """Forget the oldest certificates without calls. Their connections close by themselves when idle."""
        for tls in [tls for tls, own in self._own.items() if not own.calls][: max(0, len(self._own) - MAX_IDENTITIES)]:
            del self._own[tls]

    async def _exchange(self, step: Step, transport: httpx.AsyncBaseTransport, request: httpx.Request) -> Outcome:
        """One exchange over the transport itself. httpx's client would add redirects, cookies, proxies and decoding."""
        response = await transport.handle_async_request(request)
        try:
            body = await _read(response)
        finally:
            await response.aclose()
        status, given = response.status_code, response.headers
        if sum(len(name) + len(value) for name, value in given.raw) > MAX_HEADERS:
            return Retry(f"{status} from {step.name}, but its headers are longer than {MAX_HEADERS // 1024} KiB")
        if body is not None and "content-encoding" in given:
            body = _decoded(body, given["content-encoding"])
        if body is None and 200 <= status < 300 and step.returns:
            return Retry(f"{status} from {step.name}, but the answer is longer than {MAX_ANSWER // 1024} KiB")
        if body and status >= 300:  # a message will repeat it, and some servers show the request that they refuse
            body = _hidden(body, request.extensions["secrets"])
        return step.read_answer(status, given, body or b"", self._clock())


class _Unusable(Exception):
    """The client certificate cannot be used for a connection."""


@lru_cache(maxsize=1024)
def _url(text: str) -> httpx.URL:
    """Raises ValueError."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"the url is none: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("the url must be http:// or https:// with a host")
    if url.port is not None and not 0 < url.port < 65536:
        raise ValueError(f"the url's port is {url.port}; ports are 1 to 65535")
    return url


def _headers(update: UserUpdate, key: str) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "userupdates",
        "Idempotency-Key": key,
        "Enrichment-Stream": update.spec.stream,
        "Enrichment-User": quote(update.spec.user, safe=""),
        "Enrichment-Sequence": str(update.spec.sequence),
        "Enrichment-Source": update.source_name,
    }
    traceparent = update.spec.source.traceparent if update.spec.source else None
    if traceparent is not None and _TRACEPARENT.match(traceparent):
        headers["traceparent"] = traceparent
    return headers


def _merged(extra: Mapping[str, str] | None, own: dict[str, str]) -> dict[str, str]:
    """Raises ValueError for a header that cannot be sent. The message has no value, which may be a secret."""
    if not extra:
        return own
    taken = {name.lower() for name in own} | {"host", "content-length", "transfer-encoding", "connection"}
    merged = dict(own)
    for name, value in extra.items():
        if not (name.isascii() and name.isprintable() and value.isascii() and value.isprintable()):
            raise ValueError(f"the header {name!r} holds characters that no header can carry (a line break?)")
        if name.lower() not in taken:
            merged[name] = value
    return merged


def _secrets(headers: Mapping[str, str] | None) -> list[bytes]:
    """The texts of a step's Secret that no message may show, longest first: its entries, and what follows `Bearer`."""
    found = {part for value in (headers or {}).values() for part in (value, *value.split()[1:])}
    return sorted((part.encode() for part in found if len(part) >= MIN_SECRET), key=len, reverse=True)


def _hidden(body: bytes, secrets: list[bytes]) -> bytes:
    for secret in secrets:
        body = body.replace(secret, b"***")
    return body


async def _read(response: httpx.Response) -> bytes | None:
    """The whole body; None where it is longer than `MAX_ANSWER`."""
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER:
            return None
    return body


def _decoded(body: bytes, encoding: str) -> bytes | None:
    """Decode a body that was encoded although we asked for identity; None where it is longer than `MAX_ANSWER`."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        decoded = zlib.decompressobj(_ANY_DEFLATE).decompress(body, MAX_ANSWER + 1)
    except zlib.error:
        return body
    return decoded if len(decoded) <= MAX_ANSWER else None


def _cause(error: BaseException, step: str) -> str:
    """Why a call failed, for people."""
    match error:
        case aiohttp.ClientConnectorDNSError() as cause:
            return f"no address found for {cause.host}, the host of {step}"
        case aiohttp.ClientConnectorCertificateError() as cause:
            reason = cause.certificate_error
            return f"certificate of {step} is not trusted: {getattr(reason, 'verify_message', reason)}"
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return f"no TLS connection to {step}: does its url say https where it speaks http?"
        case aiohttp.ClientConnectorError() as cause if isinstance(cause.os_error, ConnectionRefusedError):
            return f"connection refused by {step}"
        case aiohttp.ClientConnectorError() as cause:
            return f"no connection to {step}: {cause.os_error.strerror or cause.os_error}"
        case aiohttp.ServerDisconnectedError():
            return f"connection closed by {step} before it answered"
        case aiohttp.ClientPayloadError():
            return f"connection to {step} broke off in the middle of the answer"
        case aiohttp.ClientResponseError() as cause:
            # The parser's message has a part of the answer after its colon.
            return f"the answer of {step} is not HTTP ({cause.message.partition(':')[0]})"
        case OSError():
            return f"connection reset by {step}"
        case cause:
            return f"call of {step} failed: {type(cause).__name__}"
