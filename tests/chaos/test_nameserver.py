"""The nameserver answers, and fails, is silent and late as it is told; asked by the resolver that controllers have."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from aiohttp.resolver import AsyncResolver

from devenv.layout import HOST
from tests.chaos.nameserver import DOWNSTREAM, Nameserver

ADDRESS = "127.0.0.9"


@dataclass
class Asked:
    nameserver: Nameserver
    resolver: AsyncResolver

    async def addresses(self) -> list[str]:
        return [found["host"] for found in await self.resolver.resolve(DOWNSTREAM, 80, socket.AF_UNSPEC)]


@pytest.fixture
async def asked(unused_udp_port: int) -> AsyncIterator[Asked]:
    async with AsyncExitStack() as stack:
        nameserver = Nameserver("names", ADDRESS)
        await stack.enter_async_context(nameserver.serving(HOST, unused_udp_port))
        resolver = AsyncResolver(nameservers=[HOST], udp_port=unused_udp_port, timeout=0.5, tries=1)
        stack.push_async_callback(resolver.close)
        yield Asked(nameserver, resolver)


async def test_a_name_has_the_one_address(asked: Asked) -> None:
    assert await asked.addresses() == [ADDRESS]
    assert asked.nameserver.connections


@pytest.mark.parametrize("trouble", ["refusing", "stalled"])
async def test_a_name_cannot_be_resolved_while_the_nameserver_fails_or_is_silent(asked: Asked, trouble: str) -> None:
    setattr(asked.nameserver, trouble, True)
    with pytest.raises(OSError):
        await asked.addresses()
    setattr(asked.nameserver, trouble, False)
    assert await asked.addresses() == [ADDRESS]


async def test_a_delay_is_that_of_all_whom_a_resolver_asks_in_turn(asked: Asked) -> None:
    asked.nameserver.delay = 0.02
    begun = time.monotonic()
    assert await asked.addresses() == [ADDRESS]
    assert time.monotonic() - begun >= 0.2
