"""One step over HTTP: a request goes out, an outcome comes back, whatever the network or the downstream do.

By httpx over aiohttp's connections, whose pool does not grow dearer with the calls in flight
(docs/decisions/0023-calls-by-httpx.md). What an answer means is said by `steps`; who calls when by `engine`.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from controller.outcomes import Misconfigured, Outcome, Retry
from controller.steps import Step
from controller.streams import StepSpec
from controller.tls import ClientTls
from controller.updates import UserUpdate

#: Bytes of an answer that are read, and of its headers; the connection of a longer one is dropped.
MAX_ANSWER = 64 * 1024
MAX_HEADERS = 64 * 1024
#: Header lines that are read: enough for 64 KiB of short ones, and a bound on what a hostile server may have us keep.
MAX_HEADER_LINES = 1024
#: Seconds that an idle connection is kept: below the 5 s after which common servers close theirs.
KEEP_ALIVE = 4.0
#: Client certificates whose connections are kept apart; each rotation adds one.
MAX_IDENTITIES = 64
#: Seconds for which a server may say that it wants a client certificate, where it is asked without a request.
ALERT_SECONDS = 1.0

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?\Z")
#: Decompresses gzip and zlib alike, by their headers.
_ANY_DEFLATE = 32 + zlib.MAX_WBITS
#: TLS alerts by which a server refuses the client's certificate, or the lack of one, by OpenSSL's names of them.
_CERTIFICATE_ALERTS = frozenset(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "SSLV3_ALERT_NO_CERTIFICATE",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV1_ALERT_ACCESS_DENIED",
    }
)
#: Whether the request that this task has sent went out on a connection that had been kept.
_kept: ContextVar[bool] = ContextVar("kept", default=False)


class Downstream:
    """Calls steps. One for all users and streams: connections are shared, nothing else is.

    There is no limit on connections: calls that hang must never keep others from theirs.
    """

    def __init__(
        self,
        connector: Callable[..., aiohttp.BaseConnector] | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """Made on the loop on which it calls. `connector`: None opens connections to wherever a step's url says."""
        self._connector = connector or _connector
        self._anonymous = _Connections(self._connector, ClientTls())
        #: For calls with a client certificate, the one used last at the end.
        self._own: dict[ClientTls, _Connections] = {}
        self._clock = clock or partial(datetime.now, UTC)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes all connections, those of calls in flight too."""
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
    ) -> Outcome:
        """Sends one step of an update and reads the answer, within `endpoint.timeout_seconds` all in all.

        `key` is the idempotency key; `headers` are added, but replace none of the call's own; `tls` is the client
        certificate. A kept connection that turns out to be closed before anything was answered is made good once, on
        a new one, where `may_repeat` still says so. Cancelling closes the connection. Raises nothing: all that can
        fail outside is an outcome.
        """
        try:
            content = orjson.dumps(step.request_body(update.spec, update.status.results))
        except KeyError as error:
            return Retry(f"{error.args[0]} is missing in the results of the steps before {step.name}")
        try:
            url = _url(endpoint.url)
            merged = _merged(headers, _headers(update, key))
        except ValueError as error:
            return Misconfigured(f"{step.name} cannot be called: {error}")
        request = partial(httpx.Request, "POST", url, headers=merged, content=content)
        try:
            async with asyncio.timeout(endpoint.timeout_seconds):
                with self._identified(tls) as connections:
                    return await self._call(step, connections, request, may_repeat)
        except TimeoutError:
            return Retry(f"no answer from {step.name} within {endpoint.timeout_seconds:g} s")
        except _Unusable as error:
            return Misconfigured(f"{step.name} cannot be called: {error}")
        except Exception as error:
            return Retry(_cause(_behind(error), step.name))

    async def _call(
        self,
        step: Step,
        connections: _Connections,
        request: Callable[[], httpx.Request],
        may_repeat: Callable[[], bool],
    ) -> Outcome:
        """Raises what kept an answer from coming; _Unusable where that is the client certificate."""
        _kept.set(False)
        try:
            return await self._exchange(step, connections.kept, request())
        except Exception as error:
            if not (_kept.get() and _unanswered(error) and may_repeat()):
                await connections.check_wanted(error, request().url, kept=_kept.get())
                raise
        try:
            return await self._exchange(step, connections.fresh, request())
        except Exception as error:
            await connections.check_wanted(error, request().url, kept=False)
            raise

    @contextmanager
    def _identified(self, tls: ClientTls | None) -> Iterator[_Connections]:
        """The connections to call by. Raises _Unusable."""
        if tls is None:
            yield self._anonymous
            return
        own = self._own.pop(tls, None)
        if own is None:
            try:
                own = _Connections(self._connector, tls)
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
        """Their connections close by themselves, as nobody uses them."""
        for tls in [tls for tls, own in self._own.items() if not own.calls][: max(0, len(self._own) - MAX_IDENTITIES)]:
            del self._own[tls]

    async def _exchange(self, step: Step, transport: httpx.AsyncBaseTransport, request: httpx.Request) -> Outcome:
        """The transport itself: httpx's client would add redirects, cookies, proxies and decoding, all off here."""
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
        if body is None and 200 <= status < 300 and step.owes:
            return Retry(f"{status} from {step.name}, but the answer is longer than {MAX_ANSWER // 1024} KiB")
        return step.read_answer(status, given, body or b"", self._clock())


class _Unusable(Exception):
    """The client certificate is of no use, or one is missing."""


class _Connections:
    """The connections of one client certificate, or of none: those that are kept, and new ones for one call each."""

    def __init__(self, connector: Callable[..., aiohttp.BaseConnector], tls: ClientTls) -> None:
        """Raises ValueError where the certificate is of no use."""
        self._tls = tls
        self._context = tls.context()
        self._sessions = [_session(connector(self._context, force_close)) for force_close in (False, True)]
        self.kept, self.fresh = (AiohttpTransport(client=session) for session in self._sessions)
        #: Calls under way.
        self.calls = 0

    async def aclose(self) -> None:
        for session in self._sessions:
            await session.close()

    async def check_wanted(self, error: Exception, url: httpx.URL, *, kept: bool) -> None:
        """Raises _Unusable where the server refuses the client certificate, or wants one.

        By TLS 1.3 it says so after the handshake, when the request is on its way already. The answer to that is often a
        reset that outruns the alert: then the server is asked once more, without a request.
        """
        alert = _alert(error)
        if alert is None and url.scheme == "https" and not kept and _unanswered(error):
            alert = await _alert_of(url, self._context)
        if alert is None:
            return
        if self._tls.certificate:
            raise _Unusable(f"the server refuses the client certificate of its Secret ({alert})")
        raise _Unusable(
            f"the server refuses the TLS connection ({alert}): does it want a client certificate? The step has none:"
            " tls.crt and tls.key belong in the Secret of its secretRef"
        )


def _connector(context: ssl.SSLContext, force_close: bool) -> aiohttp.BaseConnector:
    """Names are resolved by aiodns, which aiohttp takes where it is there: without threads for which all would wait."""
    keep: dict[str, Any] = {} if force_close else {"keepalive_timeout": KEEP_ALIVE}
    return aiohttp.TCPConnector(ssl=context, limit=0, force_close=force_close, **keep)


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    """Adds nothing to a call: no cookies, no proxy or password from the environment, no time-out but the call's own."""
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_kept)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),
        auto_decompress=False,
        read_bufsize=MAX_ANSWER // 2,
        max_line_size=MAX_HEADERS,
        max_field_size=MAX_HEADERS,
        max_headers=MAX_HEADER_LINES,
        trust_env=False,
        trace_configs=[trace],
    )


async def _note_kept(*_: object) -> None:
    _kept.set(True)


def _behind(error: BaseException) -> BaseException:
    """aiohttp's error: the transport has few names for them, a connect time-out for a closed connection among them."""
    return error.__cause__ or error if isinstance(error, httpx.TransportError) else error


def _unanswered(error: BaseException) -> bool:
    """The connection was closed or reset before anything of an answer had come."""
    cause = _behind(error)
    if isinstance(cause, aiohttp.ServerDisconnectedError):
        return not isinstance(cause.message, aiohttp.http.RawResponseMessage)
    return isinstance(cause, aiohttp.ClientOSError) and not isinstance(cause, aiohttp.ClientConnectorError)


def _alert(error: BaseException | None) -> str | None:
    """The alert about client certificates by which the server has ended the connection, if that is what ended it."""
    while error is not None:
        os_error = getattr(error, "os_error", None)
        for each in (error, os_error):
            reason = getattr(each, "reason", None) if isinstance(each, ssl.SSLError) else None
            if reason in _CERTIFICATE_ALERTS:
                return str(reason).lower().replace("_", " ")
        error = error.__cause__
    return None


async def _alert_of(url: httpx.URL, context: ssl.SSLContext) -> str | None:
    """What a server says of itself to somebody who connects and asks for nothing."""
    writer = None
    try:
        async with asyncio.timeout(ALERT_SECONDS):
            reader, writer = await asyncio.open_connection(url.host, url.port or 443, ssl=context)
            await reader.read(1)
    except (OSError, TimeoutError) as error:
        return _alert(error)
    finally:
        if writer is not None:
            writer.close()
    return None


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
    """Raises ValueError, without the value: it may be a secret."""
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


async def _read(response: httpx.Response) -> bytes | None:
    """The whole body; None where it is longer than `MAX_ANSWER`."""
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER:
            return None
    return body


def _decoded(body: bytes, encoding: str) -> bytes | None:
    """A body that was encoded though identity was asked for; None where it unfolds to more than `MAX_ANSWER`."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        decoded = zlib.decompressobj(_ANY_DEFLATE).decompress(body, MAX_ANSWER + 1)
    except zlib.error:
        return body
    return decoded if len(decoded) <= MAX_ANSWER else None


def _cause(error: BaseException, step: str) -> str:
    """What went wrong, for people."""
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
        case aiohttp.ClientResponseError():
            return f"the answer of {step} is not HTTP"
        case OSError():
            return f"connection reset by {step}"
        case cause:
            return f"call of {step} failed: {type(cause).__name__}"
