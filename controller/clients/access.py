"""Access to the API server: its address, our credentials, and the certificate authority. All of them may be rotated.

The client package reads a kubeconfig once, and makes each pool's TLS context once. A running process would then never
trust a rotated certificate authority, nor use a renewed client certificate. So they are read again when the API server
refuses us, or we refuse its certificate (docs/decisions/0007-rotated-authority.md).
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from kubernetes.aio import client, config
from kubernetes.aio.client.rest import RESTClientObject

from controller import errors
from controller.clients.proxies import proxy_for

logger = logging.getLogger(__name__)

#: Seconds for which a token is used before it is read again.
TOKEN_SECONDS = 10.0
#: Seconds at least between two reads of the whole configuration.
RELOAD_SECONDS = 1.0
#: Seconds of refused certificates after which the process counts as dead. A restart may help where the authority came
#: with the pod (a subPath, an init container) instead of a file that is kept up to date.
UNTRUSTED_SECONDS = 180.0
#: Seconds for which a refusal counts. After an older one there is no connection at all, which no restart mends.
RECENT_SECONDS = 40.0

#: Errors of a configuration that cannot be read: files that are being replaced, an exec plug-in that fails.
UNREADABLE = (config.ConfigException, OSError, ValueError)


class Trust:
    """Since when certificates (the API server's or ours) have been refused, without an answer in between."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        #: Set when an answer comes after certificates were read again: a holder of its own TLS context makes it anew.
        self.regained = asyncio.Event()
        self._clock = clock
        self._refused = False
        self._renewed = False
        self._since: float | None = None
        self._last = 0.0

    @property
    def refused(self) -> bool:
        """Whether no answer has come since a certificate was refused."""
        return self._refused

    @property
    def lost(self) -> bool:
        """Whether certificates have been refused for UNTRUSTED_SECONDS, by an API server that is there."""
        now = self._clock()
        return self._since is not None and now - self._since >= UNTRUSTED_SECONDS and now - self._last < RECENT_SECONDS

    def answered(self) -> None:
        """An answer came, so the certificates are trusted."""
        if self._renewed:
            self.regained.set()
        self._refused, self._renewed, self._since = False, False, None

    def renewed(self) -> None:
        """Other certificates are used from now on. The next answer confirms them."""
        self._renewed = True

    def failed(self, error: BaseException) -> None:
        """A request was not answered."""
        if not is_refusal(error):
            self._since = None  # it is away: earlier refusals no longer count
            return
        self._refused, self._last = True, self._clock()
        self._since = self._last if self._since is None else self._since


def is_refusal(error: BaseException | None) -> bool:
    """Whether a certificate, theirs or ours, was refused. A connection that broke off is no refusal."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        if isinstance(error, ssl.SSLError) and any(
            word in (getattr(error, "reason", None) or "") for word in ("CERT", "UNKNOWN_CA")
        ):
            return True
        error = getattr(error, "os_error", None) or error.__cause__
    return False


class Access:
    """The present address, token and TLS context."""

    def __init__(self, configuration: client.Configuration) -> None:
        self.configuration = configuration
        self.host = configuration.host.rstrip("/")
        self.proxy = configuration.proxy or proxy_for(self.host, os.environ)
        self.trust = Trust()
        self._material = _material(configuration)
        #: For new connections of all pools.
        self.tls = _context(configuration)
        self._token: str | None = None
        self._token_until = 0.0
        self._refused = False
        self._reload_from = 0.0
        self._reading = asyncio.Lock()

    def refused(self) -> None:
        """The API server answered 401: the credentials may have been rotated."""
        self._refused = True

    async def headers(self) -> dict[str, str]:
        """The Authorization header. Reads the configuration again first where a certificate or token was refused.

        Raises whatever the package raises for files that cannot be read, or a plug-in that fails.
        """
        if (self._refused or self.trust.refused) and time.monotonic() >= self._reload_from:
            await self._reload()
        if time.monotonic() >= self._token_until:
            settings = await self.configuration.auth_settings()
            self._token = settings["BearerToken"]["value"] if "BearerToken" in settings else None
            self._token_until = time.monotonic() + TOKEN_SECONDS
        return {"Authorization": self._token} if self._token else {}

    async def _reload(self) -> None:
        """Read the configuration again, once for all who ask at the same time."""
        async with self._reading:
            if time.monotonic() < self._reload_from:
                return
            self._reload_from = time.monotonic() + RELOAD_SECONDS
            # The package itself reads only the in-cluster files again. A kubeconfig may have changed too.
            await load(self.configuration)
            if (material := _material(self.configuration)) != self._material:
                self.tls = _context(self.configuration)
                self._material = material
                self.trust.renewed()
                logger.info("Certificates for the API server read again: they have changed")
            self._refused, self._token_until = False, 0.0


async def find() -> Access:
    """Access by KUBECONFIG or the in-cluster files. Raises ConfigError where neither is there or usable."""
    configuration = client.Configuration()
    try:
        await load(configuration)
        return Access(configuration)
    except UNREADABLE as error:
        raise errors.ConfigError(
            f"no way to the API server: {error}. Set KUBECONFIG, or run inside a cluster"
        ) from error


async def load(configuration: client.Configuration) -> None:
    """KUBECONFIG where it is set, else the in-cluster files, else ~/.kube/config: the order of client-go."""
    if "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        path = os.environ.get("KUBECONFIG")  # the package reads it once, when it is imported
        await config.load_kube_config(path, client_configuration=configuration)  # type: ignore[no-untyped-call]


def _material(configuration: client.Configuration) -> list[bytes]:
    """The contents of the files that the TLS context is made of. Raises OSError."""
    paths = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    return [Path(path).read_bytes() if path else b"" for path in paths]


def _context(configuration: client.Configuration) -> ssl.SSLContext:
    """The TLS context, as the package makes it of the configured files. Raises OSError, also as ssl.SSLError."""
    context: ssl.SSLContext = RESTClientObject(configuration).ssl_context
    return context
