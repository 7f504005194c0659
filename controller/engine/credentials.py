"""A step's Secret: each entry is a header of its calls, as `Authorization: Bearer …`, but for a client certificate's.

They are read again every few seconds, so that a rotated token needs no restart; they appear in no log and no status.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller import errors
from controller.cluster import SECRETS, Cluster
from controller.tls import ClientTls

#: Seconds for which what was read is used.
FRESH_SECONDS = 10.0
#: Entries that are no headers: those of a Secret of type kubernetes.io/tls, as cert-manager writes it.
TLS_ENTRIES = ("tls.crt", "tls.key", "ca.crt")


@dataclass(frozen=True, slots=True)
class CallCredentials:
    """What a call carries besides its own."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ClientTls | None = None

    @classmethod
    def of(cls, entries: Mapping[str, str]) -> CallCredentials:
        certificate, key, authority = (entries.get(name, "") for name in TLS_ENTRIES)
        tls = ClientTls(certificate, key, authority) if certificate or key or authority else None
        return cls({name: value for name, value in entries.items() if name not in TLS_ENTRIES}, tls)


class Credentials:
    """The Secrets of one namespace, as far as steps name them."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._known: dict[str, tuple[float, CallCredentials]] = {}

    async def read(self, secret: str) -> CallCredentials:
        """Raises NotFound where there is no such Secret; what was known serves while the API server is away.

        Raises other ApiErrors where it was never read.
        """
        until, known = self._known.get(secret, (0.0, CallCredentials()))
        if time.monotonic() < until:
            return known
        try:
            body = await self._cluster.get(SECRETS, self._namespace, secret)
        except errors.NotFound:
            self._known.pop(secret, None)
            raise
        except errors.ApiError:
            if secret not in self._known:
                raise
        else:
            known = CallCredentials.of({key: _text(value) for key, value in (body.get("data") or {}).items()})
        self._known[secret] = (time.monotonic() + FRESH_SECONDS, known)
        return known


def _text(encoded: str) -> str:
    """Without the line end that an editor or `echo` leaves behind."""
    return base64.b64decode(encoded).decode("utf-8", "replace").strip()
