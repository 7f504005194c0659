"""Connections to downstreams, separate for each client certificate: kept ones, new ones, and why one broke.

`downstream` makes the calls; aiohttp has the pools (docs/decisions/0023-calls-by-httpx.md).
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
#: Header lines that are read: enough for 64 KiB of short ones, and a bound on what a hostile server can make us keep.
MAX_HEADER_LINES = 1024
#: Bytes of a body that are buffered before reading pauses.
READ_BUFFER = 32 * 1024
#: Seconds for which an idle connection is kept: less than the 5 s after which common servers close theirs.
KEEP_ALIVE = 4.0
#: Seconds that a server has to say that it wants a client certificate, on a connection without a request.
ALERT_SECONDS = 1.0

#: TLS alerts by which a server refuses the client's certificate, or the lack of one, by their names in OpenSSL.
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
#: Whether this task's request was sent on a kept connection.
was_kept: ContextVar[bool] = ContextVar("was_kept", default=False)
#: Called when this task's request has a connection: from then on it may arrive.
on_connected: ContextVar[Callable[[], None]] = ContextVar("on_connected")


class CertificateRefused(Exception):
    """The server wants a client certificate, or another one. The message is for people."""


class Connections:
    """The connections of one client certificate, or of none: kept ones, and fresh ones for one call each."""

    def __init__(self, connector: Callable[..., aiohttp.BaseConnector], tls: ClientTls) -> None:
        """Raises ValueError where the certificate cannot be used."""
        self._tls = tls
        self._context = tls.context()
        self._sessions = [_session(connector(self._context, force_close)) for force_close in (False, True)]
        self.kept, self.fresh = (AiohttpTransport(client=session) for session in self._sessions)
        #: Calls that run now.
        self.calls = 0

    async def aclose(self) -> None:
        for session in self._sessions:
            await session.close()

    async def check_wanted(self, error: Exception, url: httpx.URL, *, kept: bool) -> None:
        """Raises CertificateRefused where `error` means that the server refuses the client certificate, or wants one.

        In TLS 1.3 a server says so after the handshake, when the request is on its way already. It often resets that
        connection, and the reset outruns the alert. Then we connect once more, without a request, to read the alert.
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
    """aiohttp resolves names by aiodns where that is installed: without threads that all calls would wait for."""
    keep: dict[str, Any] = {} if force_close else {"keepalive_timeout": KEEP_ALIVE}
    return aiohttp.TCPConnector(ssl=context, limit=0, force_close=force_close, **keep)


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    """A session that adds nothing to a call: no cookies, no proxy or password from the environment, no time-out."""
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
    """aiohttp's own error. The transport's errors are too coarse: a closed connection is a connect time-out to it."""
    return error.__cause__ or error if isinstance(error, httpx.TransportError) else error


def unanswered(error: BaseException) -> bool:
    """Whether the connection was closed or reset before any part of an answer came."""
    cause = behind(error)
    if isinstance(cause, aiohttp.ServerDisconnectedError):
        return not isinstance(cause.message, aiohttp.http.RawResponseMessage)
    return isinstance(cause, aiohttp.ClientOSError) and not isinstance(cause, aiohttp.ClientConnectorError)


def _alert(error: BaseException | None) -> str | None:
    """The alert about client certificates with which the server ended the connection; None: it ended otherwise."""
    while error is not None:
        os_error = getattr(error, "os_error", None)
        for each in (error, os_error):
            reason = getattr(each, "reason", None) if isinstance(each, ssl.SSLError) else None
            if reason in _CERTIFICATE_ALERTS:
                return str(reason).lower().replace("_", " ")
        error = error.__cause__
    return None


async def _alert_of(url: httpx.URL, context: ssl.SSLContext) -> str | None:
    """The alert that the server sends on a connection without a request; None: it sends none."""
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
