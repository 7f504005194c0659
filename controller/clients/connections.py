"""Connections to downstreams: kept ones and new ones, those of each client certificate apart, and how they end.

Between `downstream`, which makes a call, and aiohttp, whose pool they are (docs/decisions/0023-calls-by-httpx.md).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from controller.clients.tls import ClientTls

#: Bytes of an answer's headers that are read.
MAX_HEADERS = 64 * 1024
#: Header lines that are read: enough for 64 KiB of short ones, and a bound on what a hostile server may have us keep.
MAX_HEADER_LINES = 1024
#: Bytes of a body that are read before the next ones are asked for.
READ_BUFFER = 32 * 1024
#: Seconds that an idle connection is kept: below the 5 s after which common servers close theirs.
KEEP_ALIVE = 4.0
#: Seconds for which a server may say that it wants a client certificate, where it is asked without a request.
ALERT_SECONDS = 1.0

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
was_kept: ContextVar[bool] = ContextVar("was_kept", default=False)
#: Called when this task's request has its connection: from here on it may arrive.
on_connected: ContextVar[Callable[[], None]] = ContextVar("on_connected")


class CertificateRefused(Exception):
    """The server wants another client certificate, or one at all."""


class Connections:
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
        """Raises CertificateRefused where the server refuses the client certificate, or wants one.

        By TLS 1.3 it says so after the handshake, when the request is on its way already. The answer to that is often a
        reset that outruns the alert: then the server is asked once more, without a request.
        """
        alert = _alert(error)
        if alert is None and url.scheme == "https" and not kept and unanswered(error):
            alert = await _alert_of(url, self._context)
        if alert is None:
            return
        if self._tls.certificate:
            raise CertificateRefused(f"the server refuses the client certificate of its Secret ({alert})")
        raise CertificateRefused(
            f"the server refuses the TLS connection ({alert}): does it want a client certificate? The step has none:"
            " tls.crt and tls.key belong in the Secret of its secretRef"
        )


def open_connector(context: ssl.SSLContext, force_close: bool) -> aiohttp.BaseConnector:
    """Names are resolved by aiodns, which aiohttp takes where it is there: without threads for which all would wait."""
    keep: dict[str, Any] = {} if force_close else {"keepalive_timeout": KEEP_ALIVE}
    return aiohttp.TCPConnector(ssl=context, limit=0, force_close=force_close, **keep)


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    """Adds nothing to a call: no cookies, no proxy or password from the environment, no time-out but the call's own."""
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_kept)
    trace.on_connection_create_end.append(_note_connected)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),
        auto_decompress=False,
        read_bufsize=READ_BUFFER,
        max_line_size=MAX_HEADERS,
        max_field_size=MAX_HEADERS,
        max_headers=MAX_HEADER_LINES,
        trust_env=False,
        trace_configs=[trace],
    )


async def _note_kept(*_: object) -> None:
    was_kept.set(True)
    on_connected.get()()


async def _note_connected(*_: object) -> None:
    on_connected.get()()


def behind(error: BaseException) -> BaseException:
    """aiohttp's error: the transport has few names for them, a connect time-out for a closed connection among them."""
    return error.__cause__ or error if isinstance(error, httpx.TransportError) else error


def unanswered(error: BaseException) -> bool:
    """The connection was closed or reset before anything of an answer had come."""
    cause = behind(error)
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
