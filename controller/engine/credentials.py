"""A step's Secret: each entry is a header of its calls, as `Authorization: Bearer …`, but for a client certificate's.

They are read again every few seconds, so that a rotated token needs no restart; they appear in no log and no status.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller import errors, secretdata
from controller.cluster import SECRETS, Cluster
from controller.tls import ClientTls

#: Seconds for which what was read is used.
FRESH_SECONDS = 10.0
#: Seconds for which it is known that there is none.
MISSING_SECONDS = 1.0
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
        return cls({name: value.strip() for name, value in entries.items() if name not in TLS_ENTRIES}, tls)


class Credentials:
    """The Secrets of one namespace, as far as steps name them."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        #: Until when what was read is used; None: there is no such Secret, or no right to read it.
        self._known: dict[str, tuple[float, CallCredentials | None]] = {}
        #: A thousand lanes that want the same one at the same time wait for one request.
        self._reading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(self, secret: str) -> CallCredentials | None:
        """None where there is no such Secret, or no right to it; what was known serves while it cannot be read.

        Raises errors.ApiError where it was never read.
        """
        if not self._is_fresh(secret):
            async with self._reading[secret]:
                if not self._is_fresh(secret):
                    await self._read(secret)
        return self._known[secret][1]

    def _is_fresh(self, secret: str) -> bool:
        return secret in self._known and time.monotonic() < self._known[secret][0]

    async def _read(self, secret: str) -> None:
        _, found = self._known.get(secret, (0.0, None))
        try:
            body = await self._cluster.get(SECRETS, self._namespace, secret)
        except errors.NotFound:
            found = None
        except errors.ApiError as error:
            if secret not in self._known and not isinstance(error, errors.Forbidden):
                raise
        else:
            # What is no text no header can carry, which its call tells.
            found = CallCredentials.of(secretdata.entries(body, errors="replace"))
        self._known[secret] = (time.monotonic() + (MISSING_SECONDS if found is None else FRESH_SECONDS), found)
