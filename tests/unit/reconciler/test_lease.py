"""When a Lease counts as refused: only an answer of the API server refuses it, not its silence."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller import errors
from controller.core.sharding import Shard
from controller.reconciler import lease as module
from controller.reconciler.lease import Lease
from tests.support.builders import make_stream

AWAY = errors.Unavailable("Cannot connect to host")
REFUSED = errors.Forbidden("leases is forbidden", status=403)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def lease() -> Lease:
    leases = SimpleNamespace(observed=lambda namespace, name: None)
    process = SimpleNamespace(cluster=None, identity="me", balancer=SimpleNamespace(leases=leases))
    return Lease(cast(Any, process), make_stream(), Shard(0, 1))


def test_one_refusal_after_an_outage_is_no_refused_lease(clock: SimpleNamespace) -> None:
    """A restarted API server answers 403 while it loads its roles."""
    own = lease()
    own._failed(AWAY)
    clock.now += 60
    own._failed(REFUSED)
    assert own.refused == ""


def test_refusals_that_last_are_told_of(clock: SimpleNamespace) -> None:
    own = lease()
    own._failed(REFUSED)
    clock.now += module.REFUSED_SECONDS
    own._failed(REFUSED)
    assert "leases is forbidden" in own.refused
