"""One step over HTTP: a request goes out, an outcome comes back, whatever the network or the downstream do.

By aiohttp, whose pool does not grow dearer with the calls in flight (docs/decisions/0022-calls-by-aiohttp.md). What an
answer means is said by `steps`; who calls when by `engine`.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from controller.outcomes import NotCalled, Outcome, Retry
from controller.steps import Step
from controller.streams import StepSpec
from controller.tls import ClientTls
from controller.updates import UserUpdate

#: Bytes of an answer that are read; the connection of a longer one is dropped.
MAX_ANSWER = 64 * 1024
#: Seconds that an idle connection is kept: below the 5 s after which common servers close theirs, since a call that
#: meets the close would fail.
KEEP_ALIVE = 4.0
#: Client certificates whose connections are kept apart; each rotation adds one.
MAX_IDENTITIES = 64

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?\Z")
#: Decompresses gzip and zlib alike, by their headers.
_ANY_DEFLATE = 32 + zlib.MAX_WBITS


class Downstream:
    """Calls steps. One for all users and streams: connections are shared, nothing else is.

    There is no limit on connections: calls that hang must never keep others from theirs.
    """

    def __init__(
        self,
        connector: aiohttp.BaseConnector | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """Made on the loop on which it calls. `connector`: None opens connections to wherever a step's url says."""
        self._session = _session(connector or _connector(ClientTls().context()))
        #: For calls with a client certificate, the one used last at the end; with the number of calls under way.
        self._own: dict[ClientTls, _Own] = {}
        self._clock = clock or partial(datetime.now, UTC)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes all connections, those of calls in flight too."""
        for session in (self._session, *(own.session for own in self._own.values())):
            await session.close()

    async def call(
        self,
        step: Step,
        endpoint: StepSpec,
        update: UserUpdate,
        key: str,
        headers: Mapping[str, str] | None = None,
        tls: ClientTls | None = None,
    ) -> Outcome | NotCalled:
        """Sends one step of an update and reads the answer, within `endpoint.timeout_seconds` all in all.

        `key` is the idempotency key; `headers` are added, but replace none of the call's own; `tls` is the client
        certificate. Cancelling closes the connection. Raises nothing: all that can fail outside is an outcome, or
        NotCalled, where not a byte was sent.
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
        try:
            async with asyncio.timeout(endpoint.timeout_seconds):
                with self._identified(tls) as session:
                    return await self._exchange(step, session, url, merged, content)
        except TimeoutError:
            return Retry(f"no answer from {step.name} within {endpoint.timeout_seconds:g} s")
        except _Unusable as error:
            return NotCalled(f"{step.name} cannot be called: {error}")
        except Exception as error:
            return Retry(_cause(error, step.name))

    @contextmanager
    def _identified(self, tls: ClientTls | None) -> Iterator[aiohttp.ClientSession]:
        """The connections to call by. Raises _Unusable."""
        if tls is None:
            yield self._session
            return
        own = self._own.pop(tls, None)
        if own is None:
            try:
                own = _Own(_session(_connector(tls.context())))
            except ValueError as error:
                raise _Unusable(str(error)) from error
        self._own[tls] = own
        own.calls += 1
        try:
            yield own.session
        finally:
            own.calls -= 1
            self._drop_idle()

    def _drop_idle(self) -> None:
        """Their connections close by themselves, as nobody uses them."""
        for tls in [tls for tls, own in self._own.items() if not own.calls][: max(0, len(self._own) - MAX_IDENTITIES)]:
            del self._own[tls]

    async def _exchange(
        self, step: Step, session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str], content: bytes
    ) -> Outcome:
        async with session.post(url, data=content, headers=headers, allow_redirects=False) as response:
            body = await _read(response.content)
        status, given = response.status, response.headers
        if body is not None and "content-encoding" in given:
            body = _decoded(body, given["content-encoding"])
        if body is None and 200 <= status < 300 and step.owes:
            return Retry(f"{status} from {step.name}, but the answer is longer than {MAX_ANSWER // 1024} KiB")
        return step.read_answer(status, given, body or b"", self._clock())


class _Unusable(Exception):
    """A client certificate that no connection can be made with."""


@dataclass(slots=True)
class _Own:
    """The connections of one client certificate."""

    session: aiohttp.ClientSession
    calls: int = 0


def _connector(context: ssl.SSLContext) -> aiohttp.BaseConnector:
    return aiohttp.TCPConnector(ssl=context, limit=0, keepalive_timeout=KEEP_ALIVE)


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    """Adds nothing to a call: no cookies, no proxy or password from the environment, no time-out but the call's own."""
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),
        auto_decompress=False,
        read_bufsize=MAX_ANSWER // 2,
        trust_env=False,
    )


@lru_cache(maxsize=1024)
def _url(text: str) -> URL:
    """Raises ValueError."""
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("the url must be http:// or https:// with a host")
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


async def _read(stream: aiohttp.StreamReader) -> bytes | None:
    """The whole body; None where it is longer than `MAX_ANSWER`."""
    body = b""
    while chunk := await stream.readany():
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


def _cause(error: Exception, step: str) -> str:
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
