"""A short run of everything at random: load, kills, freezes, cut links; every guarantee is judged at the end.

`CHAOS_SEED=7` plays another one; `make chaos` plays longer ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from devenv import lifecycle
from devenv.environment import Environment
from tests.chaos import schedule
from tests.chaos.play import Plan, play
from tests.chaos.workload import Sizes

SEED = int(os.environ.get("CHAOS_SEED", "20"))


@pytest.fixture
def disturbed(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """The session's environment, put back as it was: the run has its parts talk through proxies."""
    monkeypatch.setenv("KUBECONFIG", str(environment.kubeconfig))
    yield environment
    environment.kill("apiserver")  # its way to etcd is gone: to end in good order it would wait for that
    lifecycle.up_infrastructure(environment)


async def test_kills_of_bridges_and_controllers_break_nothing(disturbed: Environment) -> None:
    plan = Plan(SEED, 8, Sizes(12.0, 10.0), schedule.parse_menu("kill:bridge,kill:controller"))
    assert await play(disturbed, plan, print)


async def test_faults_of_all_kinds_break_nothing(disturbed: Environment) -> None:
    plan = Plan(SEED + 1, 12, Sizes(20.0, 10.0), schedule.parse_menu(""))
    assert await play(disturbed, plan, print)
