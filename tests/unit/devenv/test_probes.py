"""What a probe says of addresses that cannot work, before it asks anybody."""

from __future__ import annotations

import pytest

from devenv import broker, probes
from devenv.errors import CommandFailed


@pytest.mark.parametrize(
    "servers",
    ["nonsense", "kafka", "kafka:", ":9092", "kafka:nine", "kafka:0", "kafka:65536", "kafka:²", "a:1,b", "a:1,"],
)
def test_an_address_without_a_port_is_told_of(servers: str) -> None:
    assert "is not HOST:PORT, such as 127.0.0.1:9092" in (probes.kafka(servers)() or "")
    with pytest.raises(CommandFailed, match="correct or unset KAFKA_BOOTSTRAP_SERVERS"):
        broker.check(servers)


def test_who_is_not_there_is_told_of_by_address() -> None:
    assert (probes.kafka("127.0.0.1:1,[::1]:1")() or "").startswith("127.0.0.1:1,[::1]:1: ")
