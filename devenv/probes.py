"""Readiness probes: each returns None when ready, else in a few words why not yet."""

from __future__ import annotations

import logging
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from devenv.layout import HOST

Probe = Callable[[], str | None]

#: librdkafka would log each refused connection of a broker that is only starting.
_SILENT = logging.getLogger("devenv.silent")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


def http(url: str, *, headers: Mapping[str, str] | None = None, ca: Path | None = None) -> Probe:
    """Ready when a GET answers 2xx. The proxy settings of the machine do not apply: all addresses are loopback."""

    def probe() -> str | None:
        if ca is not None and not ca.exists():
            return f"{ca} is not there"
        try:
            context = ssl.create_default_context(cafile=str(ca)) if ca is not None else None
            handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
            if context is not None:
                handlers.append(urllib.request.HTTPSHandler(context=context))
            opener = urllib.request.build_opener(*handlers)
            with opener.open(urllib.request.Request(url, headers=dict(headers or {})), timeout=2):
                return None
        except urllib.error.HTTPError as refused:
            with refused:
                return f"{url} answers {refused.code}: {refused.read(300).decode(errors='replace').strip()}"
        except (OSError, ValueError) as failed:
            return f"{url}: {failed}"

    return probe


def kafka(bootstrap_servers: str) -> Probe:
    """Ready when one of the brokers answers a metadata request with at least one broker."""

    def probe() -> str | None:
        try:
            addresses = [_address(server) for server in bootstrap_servers.split(",")]
        except ValueError as malformed:
            return str(malformed)
        if all(unreached := [_unreached(address) for address in addresses]):
            return f"{bootstrap_servers}: {unreached[0]}"
        try:
            metadata = admin(bootstrap_servers).list_topics(timeout=2)
        except KafkaException as failed:
            return f"{bootstrap_servers}: {failed.args[0].str()}"
        return None if metadata.brokers else f"{bootstrap_servers} knows no broker"

    return probe


def _address(server: str) -> tuple[str, int]:
    """Host and port. Raises ValueError, which says what an address looks like."""
    host, _, port = server.strip().rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{server!r} is not HOST:PORT, such as {HOST}:9092")
    return host.strip("[]"), int(port)


def _unreached(address: tuple[str, int]) -> str | None:
    """Why there is no connection."""
    try:
        socket.create_connection(address, timeout=2).close()
    except OSError as failed:
        return str(failed)
    return None


def admin(bootstrap_servers: str) -> AdminClient:
    """An admin client that does not log."""
    settings: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, "log_level": 0, "error_cb": lambda _: None}
    return AdminClient(settings, logger=_SILENT)
