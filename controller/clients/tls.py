"""A client certificate from a Secret, and the TLS context that is made of it."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM texts. Equal values are the same identity and may share connections."""

    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    #: The certificate authority to trust; empty: those that the system trusts.
    authority: str = field(default="", repr=False)

    def context(self) -> ssl.SSLContext:
        """Raises ValueError, whose message says which entry cannot be used and shows nothing of its content."""
        if bool(self.certificate) != bool(self.key):
            raise ValueError("of tls.crt and tls.key one is missing")
        try:
            context = ssl.create_default_context(cadata=self.authority or None)
        except (ssl.SSLError, ValueError) as error:
            raise ValueError("ca.crt holds no certificate") from error
        if self.certificate:
            try:
                with _as_file(f"{self.certificate}\n{self.key}\n") as path:
                    # Without a function for the password OpenSSL would ask the terminal for it.
                    context.load_cert_chain(path, password=lambda: "")
            except (ssl.SSLError, OSError, ValueError) as error:
                raise ValueError("tls.crt and tls.key are no pair of a certificate and its key") from error
        return context


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """Python loads certificates only from files. This file is in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("certificate")
        try:
            os.write(descriptor, text.encode())
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(text.encode())
            file.flush()
            yield file.name
