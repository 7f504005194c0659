"""The Secrets of steps: each entry is a header of the step's calls, unless it belongs to a client certificate.

Secrets are read again every few seconds, so that a rotated token needs no restart. They appear in no log and no status.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from controller import errors
from controller.api import secret_data
from controller.clients.cluster import SECRETS, Body, Cluster
from controller.clients.tls import ClientTls
from controller.core.outcomes import NotCalled

#: Seconds for which a Secret that was read is used; up to a fifth less, so that many are not read at once.
FRESH_SECONDS = 10.0
#: Seconds until a Secret that is missing or unusable is read again.
MISSING_SECONDS = 1.0
#: Seconds for which a call waits for a read where the Secret has been read before.
PATIENCE_SECONDS = 1.0
#: Entries that are not headers: those of a Secret of type kubernetes.io/tls, as cert-manager writes it.
TLS_ENTRIES = ("tls.crt", "tls.key", "ca.crt")
TLS_TYPE = "kubernetes.io/tls"
#: Prefixes of Kubernetes' own types, whose entries are no headers but passwords, SSH keys or logins of registries.
_OWN_TYPES = ("kubernetes.io/", "bootstrap.kubernetes.io/")
_PRIVATE_KEY = "PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class CallCredentials:
    """The headers and the client certificate that a call gets from the step's Secret."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ClientTls | None = None

    @classmethod
    def of(cls, secret: Body) -> CallCredentials | NotCalled:
        """Read a Secret by its type and the names of its entries. NotCalled says what is wrong, without any value."""
        name, kind = secret["metadata"]["name"], secret.get("type") or "Opaque"
        if kind.startswith(_OWN_TYPES) and kind != TLS_TYPE:
            return NotCalled(
                f"the entries of Secret {name} are no headers, as it is of type {kind}: use one of type Opaque,"
                f" each of whose entries is a header, or of type {TLS_TYPE}"
            )
        # Bytes that are not text are found below: no header can carry them.
        entries = secret_data.entries(secret, errors="replace")
        certificate, key, authority = (entries.get(entry, "") for entry in TLS_ENTRIES)
        tls = ClientTls(certificate, key, authority) if certificate or key or authority else None
        headers = {entry: value.strip() for entry, value in entries.items() if _is_header(entry, kind)}
        for entry, value in headers.items():
            if fault := _fault(value):
                return NotCalled(
                    f"the entry {entry} of Secret {name} cannot be sent as a header, as it {fault}: remove it."
                    f" What belongs to a client certificate are {', '.join(TLS_ENTRIES)}"
                )
        return cls(headers, tls)


#: A Secret as it was read last; None: there is none, or no right to read it.
Found: TypeAlias = CallCredentials | NotCalled | None


class StepSecrets:
    """Reads and keeps the Secrets of one namespace that steps name."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        #: Each Secret as it was read, and until when (monotonic) it is used.
        self._known: dict[str, tuple[float, Found]] = {}
        #: The read under way: a thousand workers that want the same Secret wait for it, and have its error together.
        self._reads: dict[str, asyncio.Task[errors.ApiError | None]] = {}
        #: When (monotonic) a Secret was last seen to have other entries than before.
        self._changed: dict[str, float] = {}

    def changed_at(self, secret: str | None) -> float:
        """When (monotonic) that Secret was last seen to have changed; -inf where it was not."""
        return self._changed.get(secret or "", float("-inf"))

    async def read(self, secret: str) -> Found:
        """The Secret; None where it does not exist, or may not be read. While it cannot be read, the last one is used.

        Raises errors.ApiError where it was never read.
        """
        until, _ = self._known.get(secret, (0.0, None))
        if time.monotonic() >= until:
            if not (read := self._reads.get(secret)):
                read = self._reads[secret] = asyncio.get_running_loop().create_task(self._read(secret))
                read.add_done_callback(lambda _: self._reads.pop(secret))
            await asyncio.wait({read}, timeout=PATIENCE_SECONDS if secret in self._known else None)
            if read.done() and (error := read.result()):
                raise error.with_traceback(None)  # each of those who share the error would lengthen its traceback
        return self._known[secret][1]

    async def _read(self, secret: str) -> errors.ApiError | None:
        """The error where nothing is known."""
        _, found = self._known.get(secret, (0.0, None))
        try:
            body = await self._cluster.get(SECRETS, self._namespace, secret)
        except errors.NotFound:
            found = None
        except errors.ApiError as error:
            if secret not in self._known and not isinstance(error, errors.Forbidden):
                return error
        else:
            found = CallCredentials.of(body)
        if secret in self._known and self._known[secret][1] != found:
            self._changed[secret] = time.monotonic()
        usable = isinstance(found, CallCredentials)
        seconds = FRESH_SECONDS * random.uniform(0.8, 1.0) if usable else MISSING_SECONDS
        self._known[secret] = time.monotonic() + seconds, found
        return None


def _is_header(entry: str, kind: str) -> bool:
    """Other entries of a Secret of type kubernetes.io/tls are files: tls-combined.pem, keystore.p12, key.der."""
    return entry not in TLS_ENTRIES and not (kind == TLS_TYPE and "." in entry)


def _fault(value: str) -> str:
    """Why it cannot be the value of a header; empty where it can. A private key in one line could be."""
    if _PRIVATE_KEY in value:
        return "is a private key"
    if not (value.isascii() and value.isprintable()):
        return "holds characters that no header can carry (a line break, bytes that are no text)"
    return ""
