"""A process that resolves names by a run's nameserver: `CHAOS_NAMESERVER=127.0.0.1:53053 python -m … run`.

The machine's own resolver cannot be slowed for one process without rights that nobody should need for a test.
"""

from __future__ import annotations

import functools
import os

from aiohttp import connector
from aiohttp.resolver import AsyncResolver

from controller import cli

#: Its value is the nameserver's address and port.
VARIABLE = "CHAOS_NAMESERVER"


def main() -> None:
    """The process as it is shipped, but for whom aiohttp's resolver asks."""
    host, _, port = os.environ[VARIABLE].rpartition(":")
    resolver = functools.partial(AsyncResolver, nameservers=[host], udp_port=int(port), tcp_port=int(port))
    connector.DefaultResolver = resolver  # type: ignore[assignment, attr-defined]
    cli.main()


if __name__ == "__main__":
    main()
