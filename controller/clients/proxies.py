"""Chooses the proxy for a url by the environment, as kubectl does: Go's rule (golang.org/x/net/http/httpproxy). Pure.

Python's own rule knows neither addresses nor networks in NO_PROXY.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """The proxy's url; None where the environment names none, or the host is reached directly.

    HTTPS_PROXY or HTTP_PROXY applies, by the url's scheme, in upper or lower case. Loopback addresses and `localhost`
    are reached directly, and so are the entries of NO_PROXY: `*`, a host with its subdomains (`.example.com`: the
    subdomains alone), an address, a network. A host or an address may have a port.
    """
    parts = urlsplit(url)
    host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)
    name = f"{parts.scheme}_proxy"
    proxy = environ.get(name.upper()) or environ.get(name)
    if not proxy or not host or _is_local(host):
        return None
    listed = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    if any(_matches(entry.strip().lower(), host, port) for entry in listed.split(",")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_local(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _matches(entry: str, host: str, port: int) -> bool:
    if not entry:
        return False
    if entry == "*":
        return True
    address = _address(host)
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    wanted, wanted_port = _split(entry)
    if wanted_port is not None and wanted_port != port:
        return False
    if (network_address := _address(wanted)) is not None:
        return address == network_address
    wanted = wanted.removeprefix("*")
    if wanted.startswith("."):
        return host.endswith(wanted)
    return host == wanted or host.endswith(f".{wanted}")


def _split(entry: str) -> tuple[str, int | None]:
    """Host and port of `host`, `host:80`, `::1`, `[::1]` and `[::1]:80`."""
    if _address(entry) is not None:
        return entry, None
    host, separator, port = entry.rpartition(":")
    if not separator or not port.isdigit():
        return entry.strip("[]"), None
    return host.strip("[]"), int(port)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
