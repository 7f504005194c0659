"""How tests are spread over workers: modules stay whole, the longest ones begin first, and some tests run alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from devenv.layout import ROOT

CONFTEST = """\
from tests.support import workers

workers.SECONDS = {"test_long.py": 100}
workers.ALONE = ("test_b.py::test_alone", "test_long.py::test_alone")

def pytest_xdist_make_scheduler(config, log):
    return workers.Scheduler(config, log)
"""
#: Writes down which worker ran it, and from when to when.
TEST = """\
def {name}():
    began = time.monotonic()
    time.sleep(0.3)
    with open({log!r}, "a") as file:
        file.write(f"{module} {name} {{workers.worker()}} {{began}} {{time.monotonic()}}\\n")
"""
MODULES = {
    "test_a": ["test_1", "test_2", "test_3"],
    "test_b": ["test_1", "test_alone"],
    "test_c": ["test_1", "test_2"],
    "test_long": ["test_alone", "test_1"],
}


class Ran(NamedTuple):
    module: str
    test: str
    worker: str
    began: float
    ended: float


@pytest.mark.parametrize("workers", [1, 3, 5])
def test_each_test_runs_once_and_those_marked_so_run_alone(tmp_path: Path, workers: int) -> None:
    log = tmp_path / "log"
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for module, tests in MODULES.items():
        text = "import time\nfrom tests.support import workers\n"
        for name in tests:
            text += TEST.format(name=name, module=module, log=str(log))
        (tmp_path / f"{module}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "--dist", "loadfile", "-p", "no:asyncio", "."]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in log.read_text().splitlines()]
    ran = [Ran(module, test, worker, float(began), float(ended)) for module, test, worker, began, ended in lines]
    assert sorted((each.module, each.test) for each in ran) == sorted(
        (module, test) for module, tests in MODULES.items() for test in tests
    )
    on = defaultdict(set)
    for each in ran:
        if each.test != "test_alone":
            on[each.module].add(each.worker)
    assert all(len(names) == 1 for names in on.values()), on
    in_order = sorted(ran, key=lambda each: each.began)
    assert [each.test for each in in_order[-2:]] == ["test_alone"] * 2
    for before, after in zip(in_order[-3:], in_order[-2:], strict=False):
        assert max(each.ended for each in ran if each.began <= before.began) <= after.began
    assert "test_long" in {each.module for each in in_order[:workers]}
